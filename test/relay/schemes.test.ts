/** What each scheme promises, against servers with and without TLS, good and bad ones, and attackers on the path. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { type FarServer, type FarServerOptions, startFarServer } from '../support/far-server.ts';
import { sendMessage, startRelay } from '../support/relay.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const PAIRS = {
  good: certificates.signedBy(authority, 'localhost'),
  selfSigned: certificates.selfSigned('localhost'),
  ofAnotherName: certificates.signedBy(authority, 'other.example'),
  expired: certificates.expired(authority, 'localhost'),
};
const PASSWORD = 'wonderland and more';
const credentials = join(certificates.folder, 'credentials');
writeFileSync(credentials, `# for tests\nlocalhost alice ${PASSWORD}\n`, { mode: 0o600 });

type Result = 'in cleartext' | 'in TLS' | 'refused';
const SCHEMES = ['smtp', 'smtp+tls', 'tls', 'smtps', 'ssl'] as const;
const [CLEAR, TLS, NONE] = ['in cleartext', 'in TLS', 'refused'] as const;

/** A server, and the result for each of the schemes. With `ssl` it is the server at both ports. */
const TABLE: readonly [string, FarServerOptions, readonly Result[]][] = [
  ['offers no STARTTLS', {}, [CLEAR, CLEAR, NONE, NONE, NONE]],
  ['offers STARTTLS with a good certificate', { pair: PAIRS.good }, [CLEAR, TLS, TLS, NONE, TLS]],
  [
    'offers STARTTLS with a certificate that no authority has signed',
    { pair: PAIRS.selfSigned },
    [CLEAR, TLS, NONE, NONE, NONE],
  ],
  [
    'offers STARTTLS with a certificate of another name',
    { pair: PAIRS.ofAnotherName },
    [CLEAR, TLS, NONE, NONE, NONE],
  ],
  ['offers STARTTLS with an expired certificate', { pair: PAIRS.expired }, [CLEAR, TLS, NONE, NONE, NONE]],
  ['refuses STARTTLS', { pair: PAIRS.good, starttls: '454 4.7.0 not now' }, [CLEAR, CLEAR, NONE, NONE, NONE]],
  [
    'refuses STARTTLS for good',
    { pair: PAIRS.good, starttls: '502 5.5.1 never' },
    [CLEAR, CLEAR, NONE, NONE, NONE],
  ],
  [
    'closes the connection at STARTTLS',
    { pair: PAIRS.good, starttls: '421 4.3.2 bye' },
    [CLEAR, CLEAR, NONE, NONE, NONE],
  ],
  ['breaks the handshake', { pair: PAIRS.good, breaksHandshake: true }, [CLEAR, CLEAR, NONE, NONE, NONE]],
  [
    'answers the handshake in cleartext',
    { pair: PAIRS.good, breaksHandshake: '250-injected\r\n250 AUTH PLAIN\r\n' },
    [CLEAR, CLEAR, NONE, NONE, NONE],
  ],
  [
    'sends cleartext behind the 220',
    { pair: PAIRS.good, starttls: '220 go\r\n250 injected' },
    [CLEAR, NONE, NONE, NONE, NONE],
  ],
  [
    'sends half a line behind the 220',
    { pair: PAIRS.good, starttls: '220 go\r\n250 inj' },
    [CLEAR, NONE, NONE, NONE, NONE],
  ],
  [
    'uses TLS at once, with a good certificate',
    { pair: PAIRS.good, implicit: true },
    [NONE, NONE, NONE, TLS, TLS],
  ],
  [
    'uses TLS at once, with a certificate that no authority has signed',
    { pair: PAIRS.selfSigned, implicit: true },
    [NONE, NONE, NONE, NONE, NONE],
  ],
  [
    'uses TLS at once, with a certificate of another name',
    { pair: PAIRS.ofAnotherName, implicit: true },
    [NONE, NONE, NONE, NONE, NONE],
  ],
  [
    'uses TLS at once, with an expired certificate',
    { pair: PAIRS.expired, implicit: true },
    [NONE, NONE, NONE, NONE, NONE],
  ],
];

function urlOf(scheme: string, port: number): string {
  return `${scheme}://localhost:${port}${scheme === 'ssl' ? `,${port}` : ''}`;
}

/** Neither the password in any form nor a command for it. */
function assertNoPassword(octets: string): void {
  assert.doesNotMatch(octets, /AUTH|wonderland/i);
  for (const form of [PASSWORD, `\0alice\0${PASSWORD}`]) {
    assert.ok(!octets.includes(Buffer.from(form).toString('base64')), octets);
  }
}

function resultOf({ connections }: FarServer): Result {
  return connections.map(({ delivered }) => delivered).find((one) => one !== undefined) ?? 'refused';
}

for (const [what, options, results] of TABLE) {
  // Some of these wait for a timeout of the relay.
  describe(`a server that ${what}`, { concurrency: 5 }, () => {
    for (const [index, scheme] of SCHEMES.entries()) {
      const expected = results[index];
      it(`is sent mail ${expected === 'refused' ? 'not at all' : expected} by ${scheme}://`, async (t) => {
        const server = await startFarServer(t, options);
        // A server that uses TLS at once sends no greeting: only the timeout ends that.
        const timeout = options.implicit === true && scheme !== 'smtps' ? '2' : '60';
        const words = ['-v', '2', '-t', timeout, '--credentials', credentials, urlOf(scheme, server.port)];
        const relay = startRelay(t, words, { CAFILE: authority.certFile });
        const refusal = await sendMessage(relay);
        assert.equal(await relay.status, expected === 'refused' ? 111 : 0, relay.stderr());
        assert.equal(resultOf(server), expected, relay.stderr());
        if (expected === 'refused') {
          assert.match(refusal ?? '', new RegExp(`^451 4\\.[47]\\.\\d localhost:${server.port}: `));
          assert.match(relay.stderr(), /^smtp-relay-io: warning: unable to relay to localhost:/m);
        } else assert.equal(refusal, undefined);
        for (const connection of server.connections) {
          const isVerified = options.pair === PAIRS.good && connection.tls !== '';
          assertNoPassword(connection.cleartext);
          if (!isVerified) assertNoPassword(connection.tls);
          assert.equal(connection.isAuthenticated, isVerified);
        }
        assert.doesNotMatch(relay.stderr(), /wonderland/);
      });
    }
  });
}

describe('an attacker between the relay and a good server', () => {
  /** Passes bytes on in both directions; `rewrite` changes what the server sends in cleartext. */
  async function startAttacker(
    t: TestContext,
    port: number,
    rewrite: (text: string) => string,
  ): Promise<number> {
    const listener = createServer((client) => {
      const server = connect(port, '127.0.0.1');
      for (const [one, other] of [
        [client, server],
        [server, client],
      ] as const) {
        one.on('error', () => other.destroy());
        one.on('close', () => other.destroy());
        one.on('end', () => other.end());
      }
      client.pipe(server);
      server.on('data', (bytes: Buffer) => {
        client.write(Buffer.from(rewrite(bytes.toString('latin1')), 'latin1'));
      });
    });
    listener.listen(0, '127.0.0.1');
    await once(listener, 'listening');
    t.after(() => listener.close());
    return (listener.address() as AddressInfo).port;
  }

  const ATTACKS: readonly [string, (text: string) => string, readonly Result[]][] = [
    [
      'removes STARTTLS',
      (text) => text.replace(/250([ -])STARTTLS/, '250$1XXXXXXXX'),
      [CLEAR, CLEAR, NONE, NONE, NONE],
    ],
    [
      'appends a reply to the 220',
      (text) => text.replace('220 go\r\n', '220 go\r\n250 yes\r\n'),
      [CLEAR, NONE, NONE, NONE, NONE],
    ],
    ['does nothing', (text) => text, [CLEAR, TLS, TLS, NONE, TLS]],
  ];
  for (const [what, rewrite, results] of ATTACKS) {
    for (const [index, scheme] of SCHEMES.entries()) {
      const expected = results[index];
      it(`who ${what} gets mail ${expected === 'refused' ? 'not delivered' : `delivered ${expected}`} by ${scheme}://`, async (t) => {
        const server = await startFarServer(t, { pair: PAIRS.good });
        const port = await startAttacker(t, server.port, rewrite);
        const words = ['--credentials', credentials, urlOf(scheme, port)];
        const relay = startRelay(t, words, { CAFILE: authority.certFile });
        await sendMessage(relay);
        await relay.status;
        assert.equal(resultOf(server), expected, relay.stderr());
        for (const { cleartext } of server.connections) assertNoPassword(cleartext);
      });
    }
  }
});
