/** The opening with a remote server: what the server sends, what it gets, and the outcome. */

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { describe, it } from 'node:test';
import { chooseAuth } from '../../../lib/smtp/auth.ts';
import {
  createRemoteOpening,
  type RemoteOpeningOptions,
  type RemoteOutcome,
} from '../../../lib/smtp/remote-opening.ts';

const CREDENTIALS = { user: 'alice', password: 'wonder land' };
const hmacMd5 = (key: string, message: Uint8Array): string =>
  createHmac('md5', key).update(message).digest('hex');

const OPTIONS: RemoteOpeningOptions = {
  verb: 'EHLO',
  name: 'me.example',
  starttls: 'if-offered',
  credentials: undefined,
  hmacMd5,
};

/** What a test does: `S: text` from the server, `TLS` and `VERIFIED` start TLS, `END` ends the connection. */
function play(options: Partial<RemoteOpeningOptions>, script: readonly string[], size?: number) {
  const opening = createRemoteOpening({ ...OPTIONS, ...options });
  const sent: string[] = [];
  let outcome: RemoteOutcome | undefined;
  const settle = (): void => {
    for (let step = opening.next(); step !== undefined; step = opening.next()) {
      assert.equal(outcome, undefined, 'a step after the outcome');
      if (step.type === 'outcome') outcome = step.outcome;
      else sent.push(step.type === 'start-tls' ? '(TLS)' : step.bytes.toString('latin1').trimEnd());
    }
  };
  settle();
  for (const line of script) {
    if (line === 'TLS' || line === 'VERIFIED') opening.tlsStarted(line === 'VERIFIED');
    else if (line === 'END') opening.serverEnded();
    else {
      const bytes = Buffer.from(line, 'latin1');
      for (let at = 0; at < bytes.length; at += size ?? bytes.length) {
        opening.fromServer(bytes.subarray(at, at + (size ?? bytes.length)));
        settle();
      }
    }
    settle();
  }
  return { sent, outcome, rest: opening.rest().toString('latin1') };
}

const GREETING = '220 far.example ready\r\n';
const PLAIN_EHLO = '250-far.example\r\n250 8BITMIME\r\n';
const TLS_EHLO = '250-far.example\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n';
const AUTH_EHLO = '250-far.example\r\n250 AUTH CRAM-MD5 LOGIN PLAIN\r\n';
const GO = '220 go\r\n';

/** Title, options, script, what was sent, what the outcome contains. */
const CASES: readonly [
  string,
  Partial<RemoteOpeningOptions>,
  readonly string[],
  readonly string[],
  object | undefined,
][] = [
  ['waits for the greeting', {}, [], [], undefined],
  ['ends with the reply to EHLO', {}, [GREETING, PLAIN_EHLO], ['EHLO me.example'], { type: 'ready' }],
  ['greets an LMTP server', { verb: 'LHLO' }, [GREETING, PLAIN_EHLO], ['LHLO me.example'], { type: 'ready' }],
  ['ends with a refusal of service', {}, ['554 no\r\n'], [], { type: 'refused' }],
  [
    'sends HELO when EHLO is refused for good',
    {},
    [GREETING, '502 what\r\n', '250 far.example\r\n'],
    ['EHLO me.example', 'HELO me.example'],
    { type: 'ready', hello: { code: 250, texts: ['far.example'] } },
  ],
  [
    'sends no HELO when EHLO is refused for now',
    {},
    [GREETING, '451 later\r\n'],
    ['EHLO me.example'],
    { type: 'refused' },
  ],
  [
    'sends no HELO where it needs STARTTLS',
    { starttls: 'required' },
    [GREETING, '502 what\r\n'],
    ['EHLO me.example'],
    { type: 'refused' },
  ],
  [
    'sends no HELO to an LMTP server',
    { verb: 'LHLO' },
    [GREETING, '500 what\r\n'],
    ['LHLO me.example'],
    { type: 'refused' },
  ],
  [
    'ends with the refusal of HELO',
    {},
    [GREETING, '502 what\r\n', '550 you\r\n'],
    ['EHLO me.example', 'HELO me.example'],
    { type: 'refused', reply: { code: 550, texts: ['you'] } },
  ],
  [
    'does not want STARTTLS',
    { starttls: 'never' },
    [GREETING, TLS_EHLO],
    ['EHLO me.example'],
    { type: 'ready' },
  ],
  [
    'ends without STARTTLS that is required and not offered',
    { starttls: 'required' },
    [GREETING, PLAIN_EHLO],
    ['EHLO me.example'],
    { type: 'no-tls', reply: undefined },
  ],
  [
    'does not take the name of the host for STARTTLS',
    { starttls: 'required' },
    [GREETING, '250 STARTTLS\r\n'],
    ['EHLO me.example'],
    { type: 'no-tls' },
  ],
  [
    'starts TLS and greets again',
    {},
    [GREETING, TLS_EHLO, GO, 'TLS', PLAIN_EHLO],
    ['EHLO me.example', 'STARTTLS', '(TLS)', 'EHLO me.example'],
    { type: 'ready', hello: { code: 250, texts: ['far.example', '8BITMIME'] } },
  ],
  [
    'goes on in cleartext when STARTTLS is refused',
    {},
    [GREETING, TLS_EHLO, '454 no\r\n'],
    ['EHLO me.example', 'STARTTLS'],
    { type: 'ready', isAuthenticated: false },
  ],
  [
    'ends when the server closes in reply to STARTTLS',
    {},
    [GREETING, TLS_EHLO, '421 bye\r\n'],
    ['EHLO me.example', 'STARTTLS'],
    { type: 'no-tls', reply: { code: 421, texts: ['bye'] } },
  ],
  [
    'ends when STARTTLS that is required is refused',
    { starttls: 'required' },
    [GREETING, TLS_EHLO, '454 no\r\n'],
    ['EHLO me.example', 'STARTTLS'],
    { type: 'no-tls', reply: { code: 454, texts: ['no'] } },
  ],
  [
    'does not believe what comes with the reply to STARTTLS',
    {},
    [GREETING, TLS_EHLO, `${GO}250 injected\r\n`],
    ['EHLO me.example', 'STARTTLS'],
    { type: 'broken', why: 'it sent cleartext data behind its reply to STARTTLS' },
  ],
  [
    'does not believe half a line behind the reply to STARTTLS',
    {},
    [GREETING, TLS_EHLO, `${GO}2`],
    ['EHLO me.example', 'STARTTLS'],
    { type: 'broken' },
  ],
  [
    'does not believe what comes between the reply to STARTTLS and TLS',
    {},
    [GREETING, TLS_EHLO, GO, '2'],
    ['EHLO me.example', 'STARTTLS', '(TLS)'],
    { type: 'broken' },
  ],
  [
    'ends in the handshake',
    {},
    [GREETING, TLS_EHLO, GO, 'END'],
    ['EHLO me.example', 'STARTTLS', '(TLS)'],
    { type: 'broken', why: undefined },
  ],
  ['ends before the greeting', {}, ['END'], [], { type: 'broken', why: undefined }],
  ['ends with what is no reply', {}, ['hello\r\n'], [], { type: 'broken', why: 'invalid SMTP reply' }],
  [
    'authenticates in TLS from the first byte',
    { credentials: CREDENTIALS },
    ['VERIFIED', GREETING, AUTH_EHLO, '235 ok\r\n'],
    ['EHLO me.example', 'AUTH PLAIN AGFsaWNlAHdvbmRlciBsYW5k'],
    { type: 'ready', isAuthenticated: true },
  ],
  [
    'authenticates after STARTTLS, by what is offered in TLS',
    { credentials: CREDENTIALS, starttls: 'required' },
    [
      GREETING,
      TLS_EHLO,
      GO,
      'VERIFIED',
      '250-far\r\n250 AUTH=LOGIN\r\n',
      '334 a\r\n',
      '334 b\r\n',
      '235 ok\r\n',
    ],
    [
      ...['EHLO me.example', 'STARTTLS', '(TLS)', 'EHLO me.example'],
      ...['AUTH LOGIN', 'YWxpY2U=', 'd29uZGVyIGxhbmQ='],
    ],
    { type: 'ready', isAuthenticated: true },
  ],
  [
    'ends with the refusal of its credentials',
    { credentials: CREDENTIALS },
    ['VERIFIED', GREETING, AUTH_EHLO, '535 5.7.8 no\r\n'],
    ['EHLO me.example', 'AUTH PLAIN AGFsaWNlAHdvbmRlciBsYW5k'],
    { type: 'auth-refused', reply: { code: 535, texts: ['5.7.8 no'] } },
  ],
  [
    'gives no part of its credentials in the refusal of them',
    { credentials: CREDENTIALS },
    [
      ...['VERIFIED', GREETING, AUTH_EHLO],
      '500-what is AUTH PLAIN AGFsaWNlAHdvbmRlciBsYW5k\r\n500-"AUTH PLAIN AGFsaWNlAHdv..."?\r\n500 no wonder land\r\n',
    ],
    ['EHLO me.example', 'AUTH PLAIN AGFsaWNlAHdvbmRlciBsYW5k'],
    {
      type: 'auth-refused',
      reply: { code: 500, texts: ['what is AUTH PLAIN ***', '"AUTH PLAIN ***..."?', 'no ***'] },
    },
  ],
  [
    'ends with a challenge too many',
    { credentials: CREDENTIALS },
    ['VERIFIED', GREETING, AUTH_EHLO, '334 more\r\n'],
    ['EHLO me.example', 'AUTH PLAIN AGFsaWNlAHdvbmRlciBsYW5k'],
    { type: 'auth-refused', reply: { code: 334, texts: ['more'] } },
  ],
  [
    'ends when no mechanism is known',
    { credentials: CREDENTIALS },
    ['VERIFIED', GREETING, '250-far\r\n250 AUTH GSSAPI\r\n'],
    ['EHLO me.example'],
    { type: 'no-auth' },
  ],
  [
    'ends when AUTH is not offered',
    { credentials: CREDENTIALS },
    ['VERIFIED', GREETING, PLAIN_EHLO],
    ['EHLO me.example'],
    { type: 'no-auth' },
  ],
  [
    'sends no credentials in cleartext',
    { credentials: CREDENTIALS },
    [GREETING, AUTH_EHLO],
    ['EHLO me.example'],
    { type: 'ready', isAuthenticated: false },
  ],
  [
    'sends no credentials to a server that was not verified',
    { credentials: CREDENTIALS },
    [GREETING, TLS_EHLO, GO, 'TLS', AUTH_EHLO],
    ['EHLO me.example', 'STARTTLS', '(TLS)', 'EHLO me.example'],
    { type: 'ready', isAuthenticated: false },
  ],
  [
    'does not start TLS in TLS',
    { starttls: 'required' },
    ['VERIFIED', GREETING, TLS_EHLO],
    ['EHLO me.example'],
    { type: 'ready' },
  ],
];

describe('the opening with a remote server', () => {
  for (const [title, options, script, sent, outcome] of CASES) {
    it(title, () => {
      const whole = play(options, script);
      assert.deepEqual(whole.sent, sent);
      if (outcome === undefined) assert.equal(whole.outcome, undefined);
      else assert.deepEqual({ ...whole.outcome, ...outcome }, whole.outcome);
      const inPieces = play(options, script, 1);
      // A byte later, TLS may have been asked for.
      assert.deepEqual(inPieces.outcome, whole.outcome);
      assert.deepEqual(
        inPieces.sent.filter((step) => step !== '(TLS)'),
        sent.filter((step) => step !== '(TLS)'),
      );
    });
  }

  it('leaves what follows the last reply', () => {
    assert.equal(play({}, [GREETING, `${PLAIN_EHLO}421 bye\r\n`]).rest, '421 bye\r\n');
  });
});

describe('AUTH', () => {
  it('answers the challenge of CRAM-MD5 as in RFC 2195 section 2', () => {
    const exchange = chooseAuth(['AUTH CRAM-MD5'], { user: 'tim', password: 'tanstaaftanstaaf' }, hmacMd5);
    assert.equal(exchange?.next().value, 'AUTH CRAM-MD5');
    const reply = exchange?.next(Buffer.from('<1896.697170952@postoffice.reston.mci.net>'));
    assert.equal(reply?.value, 'dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw');
    assert.equal(exchange?.next().done, true);
  });

  for (const [offered, first] of [
    ['AUTH CRAM-MD5 LOGIN', 'AUTH LOGIN'],
    ['auth cram-md5  plain', 'AUTH PLAIN'],
    ['AUTH=CRAM-MD5', 'AUTH CRAM-MD5'],
    ['AUTHENTIC PLAIN', undefined],
    ['AUTH', undefined],
    ['XPLAIN AUTH PLAIN', undefined],
  ] as const) {
    it(`chooses ${first ?? 'nothing'} from ${offered}`, () => {
      const line = chooseAuth(['SIZE', offered], CREDENTIALS, hmacMd5)?.next().value;
      assert.equal(line?.slice(0, first?.length), first);
    });
  }
});
