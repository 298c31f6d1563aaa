/** One generated session behind an envelope: all that each side gets must be what was meant for it, in order. */

import { createEnvelope, type Decision } from '../../lib/smtp/envelope.ts';
import { LINE_LIMIT } from '../../lib/smtp/line.ts';
import { formatReply } from '../../lib/smtp/reply-reader.ts';
import { firstPiece, SIZES } from './pieces.ts';
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
}

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

function textOf(random: Random): string {
  let text = '';
  for (let count = random.below(8); count > 0; count--) text += random.pick(TEXT);
  return text;
}

/** A message up to its end. Whatever it has before that does not end it. */
function messageOf(random: Random): string {
  const text = textOf(random);
  const lines = text === '' || text.endsWith('\r\n') ? text : `${text}\r\n`;
  return `${lines.replaceAll(/(?<=^|\r\n)\.\r\n/g, '..\r\n')}.\r\n`;
}

function replyOf(random: Random, code: number, number: number): string {
  return random.chance(30) ? `${code}-first\r\n${code} #${number}\r\n` : `${code} #${number}\r\n`;
}

/** Generates a part. `recipients` is how many the transaction has, for LMTP. */
function partOf(random: Random, number: number, isLmtp: boolean, state: { recipients: number }): Part {
  const end = random.pick(ENDS);
  const reply = (code: number): string => replyOf(random, code, number);
  const passed = (text: string, replies: string): Part => ({
    client: `${text}${end}`,
    smtpd: [[`${text}\r\n`, replies]],
    replies,
  });
  const message = (code: number): string => {
    const count = isLmtp ? Math.max(state.recipients, 1) : 1;
    state.recipients = 0;
    return Array.from({ length: count }, () => reply(code)).join('');
  };
  const answered = (client: string, replies: string): Part => ({ client, smtpd: [], replies });
  switch (random.below(13)) {
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
      return passed(random.pick(['RSET', 'MAIL FROM:<>', 'EHLO me']), reply(250));
    case 8:
      return passed('data', reply(503));
    case 9: {
      const whole = messageOf(random);
      const [start, final] = [reply(354), message(250)];
      return {
        client: `DATA${end}${whole}`,
        smtpd: [
          ['DATA\r\n', start],
          [whole, final],
        ],
        replies: start + final,
      };
    }
    case 10: {
      const chunk = textOf(random);
      if (random.chance(30)) return answered(`BDAT ${chunk.length} OURS${end}${chunk}`, '503 no\r\n');
      const isLast = random.chance(50);
      const command = `BDAT ${chunk.length}${isLast ? ' LAST' : ''}`;
      const replies = isLast ? message(250) : reply(250);
      return { client: `${command}${end}${chunk}`, smtpd: [[`${command}\r\n${chunk}`, replies]], replies };
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
    default:
      return passed(`NOOP #${number}`, reply(random.pick([250, 450, 550])));
  }
}

/** Plays one session. */
export const playEnvelope: Play = (seed, number, record) => {
  const random = createRandom(seed, number);
  const size = random.pick(SIZES);
  const isLmtp = random.chance(30);
  const state = { recipients: 0 };
  const parts = Array.from({ length: random.below(12) }, (_, index) => partOf(random, index, isLmtp, state));
  const exchanges = parts.flatMap(({ smtpd }) => smtpd);
  const wanted = exchanges.map(([gets]) => gets).join('');
  let fromClient = parts.map(({ client }) => client).join('');
  let preceding: Buffer | undefined;
  let [toClient, toSmtpd, fromSmtpd] = ['', '', ''];
  /** How many exchanges smtpd has replied to, and the octets of these. */
  let [replied, due] = [0, 0];

  const envelope = createEnvelope({
    protocol: isLmtp ? 'lmtp' : 'smtp',
    decide: ({ verb, argument, kind }, _, isQuiet): Decision => {
      if (verb === 'OURS') return { type: 'answer', reply: Buffer.from(`250 ${argument}\r\n`) };
      if (kind === 'chunk' && argument.endsWith('OURS')) {
        return { type: 'answer', reply: Buffer.from('503 no\r\n') };
      }
      if (verb === 'REPLACE') return { type: 'pass', line: argument };
      if (verb === 'WAIT' && !isQuiet) return { type: 'after-replies' };
      const reply = preceding;
      preceding = undefined;
      if (reply !== undefined) return { type: 'answer', reply };
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

  function settle(): void {
    for (let step = envelope.next(); step !== undefined; step = envelope.next()) {
      check('bytes' in step, `there is no ${step.type}`);
      if (!('bytes' in step)) continue;
      record?.({ type: step.type, bytes: Buffer.from(step.bytes) });
      const text = Buffer.from(step.bytes).toString('latin1');
      if (step.type === 'to-client') toClient += text;
      else toSmtpd += text;
    }
    checkSame(toSmtpd, wanted.slice(0, toSmtpd.length), 'smtpd: ');
    for (let next = exchanges[replied]; next !== undefined; next = exchanges[replied]) {
      if (toSmtpd.length < due + next[0].length) break;
      due += next[0].length;
      replied += 1;
      fromSmtpd += next[1];
    }
  }

  while (fromClient !== '' || fromSmtpd !== '') {
    const isClient = envelope.wantsClient() && fromClient !== '' && (fromSmtpd === '' || random.chance(60));
    check(isClient || fromSmtpd !== '', 'each side waits for the other');
    const piece = firstPiece(isClient ? fromClient : fromSmtpd, size, random);
    const bytes = Buffer.from(piece, 'latin1');
    record?.({ type: isClient ? 'client-sends' : 'smtpd-sends', bytes });
    if (isClient) {
      fromClient = fromClient.slice(piece.length);
      envelope.fromClient(bytes);
    } else {
      fromSmtpd = fromSmtpd.slice(piece.length);
      envelope.fromSmtpd(bytes);
    }
    settle();
    bytes.fill(0x58);
  }
  checkSame(toSmtpd, wanted, 'smtpd, in the end: ');
  checkSame(toClient, parts.map(({ replies }) => replies).join(''), 'the client, in the end: ');
  check(envelope.wantsClient() && !envelope.isBusy(), 'the session can go on');
  record?.({ type: 'client-ends' });
  envelope.clientEnded();
  check(envelope.next()?.type === 'end-smtpd', 'the end of the client is passed on');
};
