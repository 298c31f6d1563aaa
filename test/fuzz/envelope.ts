/** One generated session behind an envelope: all that each side gets must be what was meant for it, in order. */

import type { Decision } from '../../lib/smtp/decision.ts';
import { createEnvelope } from '../../lib/smtp/envelope.ts';
import { LINE_LIMIT } from '../../lib/smtp/line.ts';
import { formatReply } from '../../lib/smtp/reply-reader.ts';
import { driveEnvelope } from './envelope-driver.ts';
import { SIZES } from './pieces.ts';
import { createRandom, type Random } from './random.ts';
import type { Play } from './run.ts';
import { check, checkSame } from './violation.ts';

/** A part of a session. Text is latin1. */
interface Part {
  /** What the client sends. */
  readonly client: string;
  /** What smtpd should get of it, and what it replies then: a pair for each reply. */
  readonly smtpd: readonly (readonly [gets: string, replies: string])[];
  /** What the client should get. */
  readonly replies: string;
  /** What goes before the message or chunk in it. */
  readonly prefix?: string;
}

/** What the parts of a session depend on. */
interface State {
  readonly isStrict: boolean;
  isLmtp: boolean;
  /** How many recipients the transaction has. */
  recipients: number;
}

const REFUSED = '550 5.6.0 Bare CR or LF in the message not allowed, closing connection\r\n';
const BARE = /(?<!\r)\n|\r(?!\n)/;
const PREFIX = 'Received: from here\r\n';

/** Text of messages: commands, ends that are none, and octets of all kinds. */
const TEXT = [
  'RSET\r\n',
  'OURS no\r\n',
  'DATA\r\n',
  'BDAT 5 LAST\r\n',
  '..\r\n',
  '\n.\n',
  '\r.\r',
  '\n.\r\n',
  '.\r',
  '\r\n.\n',
  '\r\n.\r',
  '\r\n..\r\n',
  '\r\r\n',
  'a',
  '.',
  '\0\xff',
  'plain text\r\n',
  'B'.repeat(LINE_LIMIT + 5),
] as const;

const ENDS = ['\r\n', '\r\n', '\n'] as const;

const [FIRST, ...OTHERS] = TEXT.filter((text) => !BARE.test(text));
const CLEAN_TEXT = [FIRST ?? '', ...OTHERS] as const;

type Words = readonly [string, ...string[]];

function textOf(random: Random, words: Words = TEXT): string {
  let text = '';
  for (let count = random.below(8); count > 0; count--) text += random.pick(words);
  return text;
}

/** Makes a message of a text, up to its end. Whatever it has before that does not end it. */
function messageOf(text: string): string {
  const lines = text === '' || text.endsWith('\r\n') ? text : `${text}\r\n`;
  return `${lines.replaceAll(/(?<=^|\r\n)\.\r\n/g, '..\r\n')}.\r\n`;
}

function replyOf(random: Random, code: number, number: number): string {
  return random.chance(30) ? `${code}-first\r\n${code} #${number}\r\n` : `${code} #${number}\r\n`;
}

/** How many replies a message has. The transaction ends with it. */
function countReplies(state: State): number {
  const count = state.isLmtp ? Math.max(state.recipients, 1) : 1;
  state.recipients = 0;
  return count;
}

/** A message that is refused, and ends the session. Of its text, smtpd gets what is before the bare CR or LF, and no dot alone. */
function refusedPart(random: Random, state: State): Part {
  const bare = `${random.pick(['x', '.', '\r\n.'])}${random.pick(['\n', '\r', '\r\r\n'])}x`;
  const whole = messageOf(textOf(random, CLEAN_TEXT) + bare + textOf(random));
  const [before = ''] = whole.split(BARE, 1);
  const reached = before.replace(/(?<=^|\r\n)\.$/, '');
  return {
    client: `DATA\r\n${whole}`,
    smtpd: [
      ['DATA\r\n', '354 go\r\n'],
      [reached, ''],
    ],
    replies: `354 go\r\n${REFUSED.repeat(countReplies(state))}`,
    prefix: '',
  };
}

/** Generates a part. */
function partOf(random: Random, number: number, state: State): Part {
  const end = random.pick(ENDS);
  const reply = (code: number): string => replyOf(random, code, number);
  const passed = (text: string, replies: string): Part => ({
    client: `${text}${end}`,
    smtpd: [[`${text}\r\n`, replies]],
    replies,
  });
  const message = (code: number): string =>
    Array.from({ length: countReplies(state) }, () => reply(code)).join('');
  const answered = (client: string, replies: string): Part => ({ client, smtpd: [], replies });
  const prefix = random.chance(30) ? PREFIX : '';
  switch (random.below(14)) {
    case 0:
      return answered(`OURS #${number}${end}`, `250 #${number}\r\n`);
    case 1:
      return { ...passed(`X #${number}`, reply(250)), client: `REPLACE X #${number}${end}` };
    case 2:
      return passed(`WAIT #${number}`, reply(250));
    case 3: {
      const replies = reply(250);
      return { ...passed(`X #${number}`, replies), client: `PRECEDE X #${number}${end}` };
    }
    case 4:
      return random.chance(50)
        ? answered(`NOOP \0${end}`, '500 5.5.2 Bare CR or NUL not allowed\r\n')
        : answered(`NOOP ${'A'.repeat(LINE_LIMIT)}${end}`, '500 5.5.2 Line too long\r\n');
    case 5:
    case 6: {
      const isAccepted = random.chance(70);
      if (isAccepted) state.recipients += 1;
      return passed(`RCPT TO:<#${number}>`, reply(isAccepted ? 250 : 550));
    }
    case 7:
      state.recipients = 0;
      return passed(random.pick(['RSET', 'MAIL FROM:<>']), reply(250));
    case 8:
      return passed('data', reply(503));
    case 9: {
      const whole = messageOf(textOf(random, state.isStrict ? CLEAN_TEXT : TEXT));
      const [start, final] = [reply(354), message(250)];
      return {
        client: `DATA${end}${whole}`,
        smtpd: [
          ['DATA\r\n', start],
          [prefix + whole, final],
        ],
        replies: start + final,
        prefix,
      };
    }
    case 10: {
      const chunk = textOf(random);
      if (random.chance(30)) return answered(`BDAT ${chunk.length} OURS${end}${chunk}`, '503 no\r\n');
      const isLast = random.chance(50);
      const command = (size: number): string => `BDAT ${size}${isLast ? ' LAST' : ''}`;
      const replies = isLast ? message(250) : reply(250);
      return {
        client: `${command(chunk.length)}${end}${chunk}`,
        smtpd: [[`${command(prefix.length + chunk.length)}\r\n${prefix}${chunk}`, replies]],
        replies,
        prefix,
      };
    }
    case 11: {
      const steps = Array.from({ length: random.below(3) }, () => random.pick(['OURS', '', '*']));
      const replies = [...steps.map(() => reply(334)), reply(235)];
      const lines = ['AUTH LOGIN', ...steps];
      return {
        client: lines.map((line) => `${line}${end}`).join(''),
        smtpd: lines.map((line, index) => [`${line}\r\n`, replies[index] ?? '']),
        replies: replies.join(''),
      };
    }
    case 12:
      state.recipients = 0;
      state.isLmtp = random.chance(50);
      return passed(state.isLmtp ? 'LHLO me' : random.pick(['EHLO me', 'HELO me']), reply(250));
    default:
      return passed(`NOOP #${number}`, reply(random.pick([250, 450, 550])));
  }
}

/** Plays one session. */
export const playEnvelope: Play = (seed, number, record) => {
  const random = createRandom(seed, number);
  const size = random.pick(SIZES);
  const isLmtp = random.chance(30);
  const state: State = { isStrict: random.chance(30), isLmtp, recipients: 0 };
  const parts = Array.from({ length: random.below(12) }, (_, index) => partOf(random, index, state));
  const isRefused = state.isStrict && random.chance(50);
  if (isRefused) parts.push(refusedPart(random, state));
  const prefixes = parts.flatMap(({ prefix }) => (prefix === undefined ? [] : [Buffer.from(prefix)]));
  const exchanges = parts.flatMap(({ smtpd }) => smtpd);
  const wanted = exchanges.map(([gets]) => gets).join('');
  const text = parts.map(({ client }) => client).join('');
  let preceding: Buffer | undefined;
  let [toClient, toSmtpd] = ['', ''];
  /** How many exchanges smtpd has replied to, and the octets of these. */
  let [replied, due] = [0, 0];
  let hasEnded = false;

  const envelope = createEnvelope({
    protocol: isLmtp ? 'lmtp' : 'smtp',
    strictNewlines: state.isStrict,
    decide: ({ verb, argument, kind }, text, isQuiet): Decision => {
      if (verb === 'OURS') return { type: 'answer', reply: Buffer.from(`250 ${argument}\r\n`) };
      if (kind === 'chunk' && argument.endsWith('OURS')) {
        return { type: 'answer', reply: Buffer.from('503 no\r\n') };
      }
      if (verb === 'REPLACE') return { type: 'pass', line: argument };
      if (verb === 'WAIT' && !isQuiet) return { type: 'after-replies' };
      const reply = preceding;
      preceding = undefined;
      if (reply !== undefined) return { type: 'answer', reply };
      if (verb === 'DATA') return { type: 'pass', prefix: prefixOf(text.toString()) };
      if (kind === 'chunk') return passChunk(argument, prefixes.shift() ?? Buffer.alloc(0));
      if (verb !== 'PRECEDE') return { type: 'pass' };
      return {
        type: 'precede',
        line: argument,
        replied: (whole) => {
          preceding = formatReply(whole);
        },
      };
    },
  });

  /** DATA in lower case is refused, and what would go before its message does not matter. */
  function prefixOf(line: string): Buffer {
    return (line === 'DATA' ? prefixes.shift() : undefined) ?? Buffer.from('not sent');
  }

  function settle(): string {
    let sent = '';
    for (let step = envelope.next(); step !== undefined; step = envelope.next()) {
      if (step.type === 'end') hasEnded = true;
      if (step.type === 'end') continue;
      check('bytes' in step, `there is no ${step.type}`);
      if (!('bytes' in step)) continue;
      record?.({ type: step.type, bytes: Buffer.from(step.bytes) });
      const bytes = Buffer.from(step.bytes).toString('latin1');
      if (step.type === 'to-client') toClient += bytes;
      else toSmtpd += bytes;
    }
    checkSame(toSmtpd, wanted.slice(0, toSmtpd.length), 'smtpd: ');
    for (let next = exchanges[replied]; next !== undefined; next = exchanges[replied]) {
      if (toSmtpd.length < due + next[0].length) break;
      due += next[0].length;
      replied += 1;
      sent += next[1];
    }
    return sent;
  }

  driveEnvelope({ envelope, text, random, size, record, settle });
  checkSame(toSmtpd, wanted, 'smtpd, in the end: ');
  checkSame(toClient, parts.map(({ replies }) => replies).join(''), 'the client, in the end: ');
  check(hasEnded === isRefused, 'a refused message, and nothing else, ends the session');
  if (isRefused) return;
  check(envelope.wantsClient() && !envelope.isBusy(), 'the session can go on');
  record?.({ type: 'client-ends' });
  envelope.clientEnded();
  check(envelope.next()?.type === 'end-smtpd', 'the end of the client is passed on');
};

/** Passes a chunk with a prefix, which its size includes. */
function passChunk(argument: string, prefix: Buffer): Decision {
  const [size, ...last] = argument.split(' ');
  return { type: 'pass', line: ['BDAT', Number(size) + prefix.length, ...last].join(' '), prefix };
}
