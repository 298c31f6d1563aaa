/**
 * What a client and an smtpd may send, valid and invalid. Text is latin1: one character per octet.
 *
 * Each command and each reply carries a number of its own (`#7`), which identifies it.
 */

import { LINE_LIMIT } from '../../lib/smtp/line.ts';
import type { Random } from './random.ts';

/** All that a client sends. */
export interface ClientInput {
  readonly text: string;
  /** How many commands are in it; meaningless unless `sound`. */
  readonly commands: number;
  /** True when it was not mutated and every line in it ends properly. */
  readonly sound: boolean;
}

const TO_SMTPD = ['NOOP', 'RSET', 'VRFY', 'EXPN', 'HELP', 'XYZZY', 'noop', ' Noop', 'QUIT'] as const;
const ANSWERED = ['AUTH', 'auth', ' AUTH', 'AUTH\tPLAIN', 'DATA', 'RCPT', '\trcpt', 'STARTTLS'] as const;
const STARTTLS = ['STARTTLS', 'STARTTLS', 'starttls', 'STARTTLS ', ' \tSTARTTLS\t'] as const;
const DECIDING = ['HELO', 'MAIL', 'mail', ' MAIL\t', 'AUTH', 'GET', 'post', 'CONNECT'] as const;
const ODD_ENDS = ['\r\r\n', '\r', '\n\r', '\0\r\n', ''] as const;
const INSERTED = ['\r', '\n', '\0', ' ', '\t', '\r\n', 'STARTTLS\r\n', 'MAIL\r\n', '250 x\r\n', '-'] as const;

/** Generates all that a client sends in one connection. */
export function clientInput(random: Random): ClientInput {
  const count = random.below(9);
  let text = '';
  let sound = true;
  for (let number = 0; number < count; number++) {
    const end = lineEnd(random);
    if (end !== '\r\n' && end !== '\n') sound = false;
    text += command(random, number, end);
  }
  if (random.chance(25)) {
    sound = false;
    for (let times = random.below(3); times >= 0; times--) text = mutate(text, random);
  }
  return { text, commands: count, sound };
}

function lineEnd(random: Random): string {
  if (random.chance(85)) return '\r\n';
  return random.chance(80) ? '\n' : random.pick(ODD_ENDS);
}

function command(random: Random, number: number, end: string): string {
  const kind = random.below(100);
  if (kind < 35) return `${random.pick(TO_SMTPD)} #${number}${end}`;
  if (kind < 50) return `${random.pick(['EHLO', 'LHLO', 'ehlo'])} #${number}${end}`;
  if (kind < 65) return `${random.pick(STARTTLS)}${end}`;
  if (kind < 78) return `${random.pick(ANSWERED)} #${number}${end}`;
  if (kind < 88) return chunk(random, end);
  if (kind < 92) return `${random.pick(['', ' ', '\t '])}${end}`;
  if (kind < 99) return `${random.pick(DECIDING)} #${number}${end}`;
  return random.chance(30)
    ? `NOOP ${'A'.repeat(longLength(random))}${end}`
    : `NOOP \xe9\xff #${number}${end}`;
}

function chunk(random: Random, end: string): string {
  const inside = random.chance(4)
    ? 'B'.repeat(longLength(random))
    : random.pick(['', 'x', 'STARTTLS\r\n', 'QUIT\r\nMAIL\r\n', '\n\n\n', 'no line end']);
  return `BDAT ${inside.length}${random.pick(['', ' LAST'])}${end}${inside}`;
}

/** Lengths near the limit of a line, and far beyond. */
function longLength(random: Random): number {
  return random.chance(60) ? LINE_LIMIT - 12 + random.below(24) : LINE_LIMIT + random.below(20_000);
}

/** Damages a text in one place. */
export function mutate(text: string, random: Random): string {
  const at = random.below(text.length + 1);
  const to = Math.min(text.length, at + random.below(12));
  switch (random.below(5)) {
    case 0:
      return text.slice(0, at) + String.fromCharCode(random.below(256)) + text.slice(at + 1);
    case 1:
      return text.slice(0, at) + text.slice(to);
    case 2:
      return text.slice(0, to) + text.slice(at);
    case 3:
      return text.slice(0, at) + random.pick(INSERTED) + text.slice(at);
    default:
      return text.slice(0, at) + garbage(random) + text.slice(at);
  }
}

function garbage(random: Random): string {
  let text = '';
  for (let count = random.below(10); count > 0; count--) text += String.fromCharCode(random.below(256));
  return text;
}

const EXTENSIONS = [
  'AUTH PLAIN',
  'AUTH\tLOGIN',
  ' AUTH',
  'auth=LOGIN',
  'AUTH',
  'STARTTLS',
  'StartTLS',
  'PIPELINING',
  'AUTHX',
  'SIZE',
] as const;
const INVALID_REPLIES = [
  '',
  '25',
  '250x',
  'oops',
  ' 250 ok',
  '600 ok',
  '199 ok',
  '250\tok',
  '250 a\rb',
  '250 a\0b',
] as const;

/**
 * Generates smtpd's reply to a command.
 *
 * @param line what smtpd has received, or GREETING.
 * @param number the reply's own.
 */
export function replyTo(line: string, number: number, random: Random): string {
  const end = random.chance(90) ? '\r\n' : '\n';
  if (/^\s*[EL]HLO/i.test(line) && random.chance(75)) return helloReply(number, end, random);
  let code = 200 + random.below(400);
  if (line === 'RSET') code = random.pick([250, 220, 299, 250, 300, 354, 421, 451, 550]);
  if (line === 'QUIT') code = 221;
  if (line === 'GREETING' && random.chance(80)) code = 220;
  return manyLines(code, number, end, random);
}

/** Generates an unsolicited reply of smtpd. */
export function unsolicitedReply(number: number, random: Random): string {
  return manyLines(random.chance(50) ? 421 : 250, number, '\r\n', random);
}

/** Generates something that is not a valid reply. */
export function invalidReply(number: number, random: Random): string {
  switch (random.below(4)) {
    case 0:
      return `250-#${number}\r\n251 #${number}\r\n`;
    case 1:
      return mutate(manyLines(250, number, '\r\n', random), random);
    case 2:
      return random.chance(10) ? `250 ${'C'.repeat(longLength(random))}\r\n` : `\xff #${number}\r\n`;
    default:
      return `${random.pick(INVALID_REPLIES)}\r\n`;
  }
}

function manyLines(code: number, number: number, end: string, random: Random): string {
  let text = '';
  for (let more = random.chance(70) ? 0 : random.below(4); more > 0; more--) {
    text += `${code}-${random.pick(['', 'line', 'STARTTLS', 'AUTH'])} #${number}${end}`;
  }
  return `${text}${code} #${number}${end}`;
}

function helloReply(number: number, end: string, random: Random): string {
  const lines = [`${random.pick(['host', 'STARTTLS', 'AUTH'])} #${number}`];
  for (let more = random.below(4); more > 0; more--) {
    lines.push(random.pick(EXTENSIONS) + (random.chance(50) ? ` #${number}` : ''));
  }
  return lines.map((line, index) => `250${index === lines.length - 1 ? ' ' : '-'}${line}${end}`).join('');
}
