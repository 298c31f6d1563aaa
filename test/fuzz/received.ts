/**
 * One generated session with Received fields: each message that smtpd accepts must have one of ours, in front, and each
 * chunk all octets that the client sent. The smtpd is a model that refuses at random, and continues in any way that smtpds
 * might after a refused chunk.
 */

import { addReceived } from '../../lib/smtp/add-received.ts';
import { createEnvelope } from '../../lib/smtp/envelope.ts';
import { driveEnvelope } from './envelope-driver.ts';
import { SIZES } from './pieces.ts';
import { createRandom, type Random } from './random.ts';
import type { Play } from './run.ts';
import { check, checkSame } from './violation.ts';

const FIELD =
  /^Received: from (\S+)\r\n {2}\(\[192\.0\.2\.1\]\)\r\n {2}by mx\.example\r\n {2}with (\S+)\r\n {2}id 17-4\.\d+;\r\n {2}Thu, 01 Jan 1970 00:00:00 \+0000\r\n/;

const LINES = ['RSET', 'MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'NOOP', 'QUIT', 'x', '..'] as const;
const LASTS = ['', ' LAST', ' last', '  LAST'] as const;

/** What the client sends, and the octets of each chunk in it. */
interface Client {
  readonly text: string;
  readonly chunks: ReadonlySet<string>;
}

function clientOf(random: Random): Client {
  const chunks = new Set<string>();
  const parts = Array.from({ length: random.below(25) }, (_, number) => {
    switch (random.below(11)) {
      case 0:
        return `${random.pick(['EHLO', 'ehlo', 'HELO', 'LHLO'])} me${number}\r\n`;
      case 1:
      case 2:
        return 'MAIL FROM:<a@b>\r\n';
      case 3:
      case 4:
        return 'RCPT TO:<c@d>\r\n';
      case 5:
        return random.pick(['RSET\r\n', 'NOOP\r\n', 'AUTH PLAIN x\r\n']);
      case 6: {
        const lines = Array.from({ length: random.below(4) }, () => `${random.pick(LINES)}\r\n`);
        return `DATA\r\n${lines.join('')}.\r\n`;
      }
      case 7:
        return random.pick([
          'BDAT\r\n',
          'BDAT +1 LAST\r\n',
          'BDAT 1 LASTING\r\nx',
          'BDAT 0000000000000000001 LAST\r\nx',
        ]);
      default: {
        const octets = random.chance(20)
          ? ''
          : `#${number}${random.pick(['', '\r\n', '\r\n.\r\n', '\r\nRSET\r\n'])}`;
        chunks.add(octets);
        return `BDAT ${octets.length}${random.pick(LASTS)}\r\n${octets}`;
      }
    }
  });
  return { text: parts.join(''), chunks };
}

/** @returns a function that takes what is sent to an smtpd, and returns its replies. */
function createSmtpd(
  random: Random,
  sent: ReadonlySet<string>,
  hasGreeting: boolean,
): (text: string) => string {
  /** What it does when RFC 3030 leaves the state open. */
  const [keepsChunks, takesDataAfterChunks] = [random.chance(50), random.chance(50)];
  /** Without CHUNKING it takes the octets of a chunk for commands. */
  let takesChunks = !hasGreeting;
  let input = '';
  let hello = { verb: 'HELO', name: '[192.0.2.1]' };
  let isAuthenticated = false;
  let hasSender = false;
  let recipients = 0;
  let chunks: string | undefined;
  /** What the field of the message should say. */
  let described = '';
  let isMessage = false;

  function reset(): void {
    [hasSender, recipients, chunks] = [false, 0, undefined];
  }

  function describe(): string {
    const family = { HELO: 'SMTP', EHLO: 'ESMTP', LHLO: 'LMTP' }[hello.verb] ?? '';
    return `${hello.name} ${family}${isAuthenticated && hello.verb !== 'HELO' ? 'A' : ''}`;
  }

  /** The replies to a message. */
  function accept(message: string): string {
    const [field = '', name, protocol] = FIELD.exec(message) ?? [];
    check(field !== '', `a message without a field: ${JSON.stringify(message)}`);
    checkSame(`${name} ${protocol}`, described, 'the field: ');
    check(message.split('by mx.example').length === 2, `more fields: ${JSON.stringify(message)}`);
    const count = hello.verb === 'LHLO' ? Math.max(recipients, 1) : 1;
    reset();
    return Array.from({ length: count }, () => random.pick(['250 ok\r\n', '250 ok\r\n', '550 no\r\n'])).join(
      '',
    );
  }

  function takeChunk(octets: string, isLast: boolean): string {
    check(takesChunks, 'a chunk without CHUNKING');
    check(sent.has(octets.replace(FIELD, '')), `the octets of a chunk: ${JSON.stringify(octets)}`);
    if (!hasSender || recipients === 0 || random.chance(20)) {
      const count = isLast && hello.verb === 'LHLO' ? Math.max(recipients, 1) : 1;
      if (isLast) reset();
      else if (!keepsChunks) chunks = undefined;
      return '503 no\r\n'.repeat(count);
    }
    if (chunks === undefined) described = describe();
    chunks = (chunks ?? '') + octets;
    return isLast ? accept(chunks) : '250 chunk\r\n';
  }

  function reply(line: string): string {
    const [verb = '', argument = ''] = line.split(' ');
    const isRefused = random.chance(15);
    switch (verb.toUpperCase()) {
      case 'EHLO':
      case 'HELO':
      case 'LHLO':
        if (isRefused) return '501 no\r\n';
        reset();
        hello = { verb: verb.toUpperCase(), name: argument };
        takesChunks = !hasGreeting || random.chance(70);
        return `250-host\r\n250 ${takesChunks ? 'CHUNKING' : 'ok'}\r\n`;
      case 'MAIL':
        if (isRefused || (hasSender && random.chance(70))) return '503 no\r\n';
        reset();
        hasSender = true;
        return '250 sender\r\n';
      case 'RCPT':
        if (isRefused || !hasSender) return '550 no\r\n';
        recipients += 1;
        return '250 recipient\r\n';
      case 'RSET':
        if (isRefused) return '451 no\r\n';
        reset();
        return '250 reset\r\n';
      case 'AUTH':
        isAuthenticated ||= !isRefused;
        return isRefused ? '535 no\r\n' : '235 welcome\r\n';
      case 'DATA':
        if (isRefused || recipients === 0) return '503 no\r\n';
        if (chunks !== undefined && !takesDataAfterChunks) return '503 no\r\n';
        described = describe();
        isMessage = true;
        return '354 go\r\n';
      default:
        return '250 other\r\n';
    }
  }

  /** Takes one command, chunk or message; undefined if it is not complete. */
  function step(): string | undefined {
    if (isMessage) {
      const end = input.startsWith('.\r\n') ? 0 : input.indexOf('\r\n.\r\n') + 2;
      if (end < 2 && !input.startsWith('.\r\n')) return undefined;
      const message = input.slice(0, end);
      input = input.slice(end + 3);
      isMessage = false;
      return accept(message);
    }
    const end = input.indexOf('\r\n');
    if (end < 0) return undefined;
    const line = input.slice(0, end);
    const [, size, last] = /^BDAT (\d+)( +LAST)?$/i.exec(line) ?? [];
    const after = end + 2 + Number(size ?? 0);
    if (after > input.length) return undefined;
    const octets = input.slice(end + 2, after);
    input = input.slice(after);
    check(size !== undefined || !/^BDAT/i.test(line), `a line that smtpds read differently: ${line}`);
    return size === undefined ? reply(line) : takeChunk(octets, last !== undefined);
  }

  return (text) => {
    input += text;
    let replies = '';
    for (let more = step(); more !== undefined; more = step()) replies += more;
    return replies;
  };
}

/** Plays one session. */
export const playReceived: Play = (seed, number, record) => {
  const random = createRandom(seed, number);
  const size = random.pick(SIZES);
  const client = clientOf(random);
  const hasGreeting = random.chance(50);
  const smtpd = createSmtpd(random, client.chunks, hasGreeting);
  const envelope = createEnvelope({
    awaitsGreeting: hasGreeting,
    decide: addReceived(() => ({ type: 'pass' }), {
      ...{ by: 'mx.example', clientAddress: '192.0.2.1', id: '17-4' },
      tls: () => undefined,
      now: () => 0,
    }),
  });

  function settle(): string {
    let sent = '';
    for (let step = envelope.next(); step !== undefined; step = envelope.next()) {
      check('bytes' in step, `there is no ${step.type}`);
      if (!('bytes' in step)) continue;
      record?.({ type: step.type, bytes: Buffer.from(step.bytes) });
      if (step.type === 'to-smtpd') sent += smtpd(Buffer.from(step.bytes).toString('latin1'));
    }
    return sent;
  }

  const greeting = hasGreeting ? '220 ready\r\n' : '';
  driveEnvelope({ envelope, text: client.text, greeting, random, size, record, settle });
  check(envelope.wantsClient() && !envelope.isBusy(), 'the session can go on');
};
