/**
 * One generated opening with a remote server, which sends anything, cut anywhere. It must do what the model does,
 * however the text is cut.
 */

import { createRemoteOpening, type RemoteOutcome } from '../../lib/smtp/remote-opening.ts';
import { REPLY_LIMIT } from '../../lib/smtp/reply-reader.ts';
import { modelRemoteOpening, type RemoteOpeningCase, replyText } from '../support/remote-opening-model.ts';
import { invalidReply, mutate, replyTo } from './input.ts';
import { firstPiece, SIZES } from './pieces.ts';
import { createRandom, type Random } from './random.ts';
import type { Play } from './run.ts';
import { check, checkSame } from './violation.ts';

const CREDENTIALS = { user: 'alice', password: 'wonder land' };
/** Every form in which the password, or what it can be guessed from, is sent. */
const SECRETS = ['AGFsaWNlAHdvbmRlciBsYW5k', 'd29uZGVyIGxhbmQ=', 'YWxpY2UgaG1hYz', CREDENTIALS.password];
const INJECTED = '=broken it sent cleartext data behind its reply to STARTTLS';

/** Plays one opening until its outcome. */
export const playRemoteOpening: Play = (seed, number, record) => {
  const random = createRandom(seed, number);
  const one = generate(random);
  const size = random.pick(SIZES);
  const opening = createRemoteOpening({
    ...one,
    hmacMd5: (_, message) => `hmac:${Buffer.from(message).toString('hex')}`,
  });
  let isTls = false;
  let isDue = false;
  let isOver = false;
  let steps = '';
  let largest = 0;
  /** What was delivered of the current one of the two texts. */
  let delivered = '';

  function settle(): void {
    for (let step = opening.next(); step !== undefined; step = opening.next()) {
      check(!isOver, 'there are no steps after the outcome');
      if (step.type === 'to-server') {
        record?.({ type: 'to-smtpd', bytes: step.bytes });
        const line = step.bytes.toString('latin1');
        check(
          (isTls && one.isVerified) || !SECRETS.some((secret) => line.includes(secret)),
          'no secret is sent',
        );
        steps += `>${line}`;
      } else if (step.type === 'start-tls') {
        isDue = true;
        steps += '(TLS)';
      } else {
        isOver = true;
        // As a whole: a part of it may be the beginning of something else.
        const sent = SECRETS.flatMap((secret) => steps.match(new RegExp(`${secret}[\\w+/=]*`)) ?? []);
        steps += `=${textOf(step.outcome, [...sent, CREDENTIALS.password])}`;
      }
    }
    check(opening.rest().length <= REPLY_LIMIT + largest, 'memory is bounded');
  }

  function deliver(text: string): void {
    delivered = '';
    while (delivered.length < text.length && !isOver) {
      const piece = firstPiece(text.slice(delivered.length), size, random);
      const bytes = Buffer.from(piece, 'latin1');
      record?.({ type: 'smtpd-sends', bytes });
      largest = Math.max(largest, bytes.length);
      delivered += piece;
      opening.fromServer(bytes);
      bytes.fill(0x58);
      settle();
    }
  }

  function startTls(): void {
    isDue = false;
    isTls = true;
    opening.tlsStarted(one.isVerified);
    settle();
    deliver(one.inTls);
  }

  if (one.isImplicit) startTls();
  else {
    settle();
    deliver(one.cleartext);
    if (isDue && !isOver) startTls();
  }
  if (!isOver) {
    record?.({ type: 'smtpd-ends' });
    opening.serverEnded();
    settle();
  }
  const model = modelRemoteOpening(one);
  // It depends on the packets whether the handshake has begun by then.
  checkSame(steps.replace(`(TLS)${INJECTED}`, INJECTED), model.steps);
  if (steps.includes('=ready')) {
    checkSame(opening.rest().toString('latin1'), delivered.slice(model.readTo), 'rest: ');
  }
};

/** @param sent what must not be in a reply that is logged. */
function textOf(outcome: RemoteOutcome, sent: readonly string[]): string {
  switch (outcome.type) {
    case 'ready':
      return `ready ${outcome.isAuthenticated} ${outcome.hello.texts.join('|')}`;
    case 'refused':
      return `refused ${replyText(outcome.reply.code, outcome.reply.texts)}`;
    case 'no-tls': {
      const { reply } = outcome;
      return `no-tls ${reply === undefined ? 'not offered' : replyText(reply.code, reply.texts)}`;
    }
    case 'auth-refused': {
      const { code, texts } = outcome.reply;
      check(!texts.some((text) => sent.some((secret) => text.includes(secret))), 'no secret is logged');
      return `auth-refused ${code}`;
    }
    case 'broken':
      return `broken ${outcome.why}`;
    default:
      return outcome.type;
  }
}

function generate(random: Random): RemoteOpeningCase {
  return {
    verb: random.chance(15) ? 'LHLO' : 'EHLO',
    name: random.pick(['client.example', 'x', 'a\xe9 b']),
    starttls: random.pick(['if-offered', 'required', 'never']),
    credentials: random.chance(80) ? CREDENTIALS : undefined,
    isImplicit: random.chance(25),
    isVerified: random.chance(70),
    cleartext: serverText(['GREETING', 'EHLO', ...(random.chance(60) ? ['STARTTLS'] : [])], random),
    inTls: serverText([...(random.chance(25) ? ['GREETING'] : []), 'EHLO', 'AUTH', 'MORE'], random),
  };
}

/** All that the server sends in one of the two phases: a reply to each of these, mostly, and perhaps more. */
function serverText(lines: readonly string[], random: Random): string {
  const isFaulty = random.chance(40);
  let text = '';
  for (const [number, line] of lines.entries()) {
    if (isFaulty && random.chance(10)) text += invalidReply(number, random);
    if (isFaulty && random.chance(10)) text += `502 #${number}\r\n`;
    if (random.chance(0.1)) text += `250-${'x'.repeat(10_000)}\r\n`.repeat(6 + random.below(2));
    text += isFaulty && random.chance(25) ? replyTo(line, number, random) : usualReply(line, random);
  }
  return random.chance(4) ? mutate(text, random) : text;
}

const AUTH = [
  'AUTH PLAIN LOGIN',
  'AUTH LOGIN',
  'AUTH=LOGIN',
  'auth CRAM-MD5',
  'AUTH CRAM-MD5 X',
  'AUTH',
  'AUTHX',
] as const;

function usualReply(line: string, random: Random): string {
  const end = random.chance(90) ? '\r\n' : '\n';
  switch (line) {
    case 'GREETING':
      return `220 ready${end}`;
    case 'EHLO':
      return `250-far${end}250-${random.pick(AUTH)}${end}250 ${random.pick(['STARTTLS', 'StartTLS', 'SIZE'])}${end}`;
    case 'STARTTLS':
      return `${random.pick(['220 go', '220 go', '220 go', '454 no', '421 bye'])}${end}`;
    case 'AUTH': {
      let text = '';
      for (let more = random.below(4); more > 0; more--)
        text += `334 ${random.pick(['', 'PDE+', 'VXNlcg==', '?'])}${end}`;
      return `${text}${random.pick(['235 ok', '535 no', ...SECRETS.map((secret) => `500 what? ${secret}`)])}${end}`;
    }
    default:
      return random.chance(20) ? `250 more${end}` : '';
  }
}
