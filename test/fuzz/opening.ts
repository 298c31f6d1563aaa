/** One generated opening. At every step it must do what the model does. */

import { createOpening, type OpeningOutcome, type OpeningStep } from '../../lib/smtp/opening.ts';
import { REPLY_LIMIT, type Reply } from '../../lib/smtp/reply-reader.ts';
import { createOpeningModel } from '../support/opening-model.ts';
import { invalidReply, mutate, replyTo, unsolicitedReply } from './input.ts';
import { firstPiece, SIZES } from './pieces.ts';
import { createRandom, type Random } from './random.ts';
import type { Play } from './run.ts';
import { check, checkSame } from './violation.ts';

const HELLOS = ['EHLO client', 'HELO client', 'ehlo \xe9'] as const;

/** Plays one opening until its outcome. */
export const playOpening: Play = (seed, number, record) => {
  const random = createRandom(seed, number);
  const hellos = Array.from({ length: random.below(4) }, () => random.pick(HELLOS));
  const text = smtpdOutput(hellos, random);
  const size = random.pick(SIZES);
  const model = createOpeningModel(text, hellos);
  const opening = createOpening(hellos);
  let outcome = '';
  let readTo = 0;
  let largest = 0;

  function settle(): void {
    let actual = '';
    for (let step = opening.next(); step !== undefined; step = opening.next()) actual += carryOut(step);
    checkSame(actual, model.settle());
    check(opening.rest().length <= REPLY_LIMIT + largest, 'memory is bounded');
  }

  function carryOut(step: OpeningStep): string {
    check(outcome === '', 'there are no steps after the outcome');
    if (step.type === 'to-smtpd') {
      record?.(step);
      return `>${step.bytes.toString('latin1')}`;
    }
    outcome = step.outcome.type;
    return `=${outcome} ${textOf(step.outcome)}`;
  }

  function send(): void {
    const bytes = Buffer.from(firstPiece(text.slice(readTo), size, random), 'latin1');
    record?.({ type: 'smtpd-sends', bytes });
    largest = Math.max(largest, bytes.length);
    readTo += bytes.length;
    model.read(bytes.length);
    opening.fromSmtpd(bytes);
    bytes.fill(0x58);
  }

  function end(): void {
    record?.({ type: 'smtpd-ends' });
    model.smtpdEnded();
    opening.smtpdEnded();
  }

  settle();
  while (outcome === '') {
    if (readTo < text.length && !random.chance(0.3)) send();
    else end();
    settle();
  }
  if (outcome !== 'broken') checkSame(opening.rest().toString('latin1'), model.rest(), 'rest: ');
  end();
  settle();
};

/** Generates all that smtpd sends: a greeting, replies, and perhaps more; sometimes something else. */
function smtpdOutput(hellos: readonly string[], random: Random): string {
  const isFaulty = random.chance(30);
  let text = '';
  for (const [number, line] of ['GREETING', ...hellos, 'MORE'].entries()) {
    if (line === 'MORE' && random.chance(60)) break;
    if (isFaulty && random.chance(15)) text += invalidReply(number, random);
    if (random.chance(0.1)) text += longReply(random);
    text += isFaulty ? replyTo(line, number, random) : positiveReply(number, random);
    if (isFaulty && random.chance(10)) text += unsolicitedReply(number, random);
  }
  if (random.chance(0.1)) text += 'x'.repeat(random.below(80_000));
  return random.chance(5) ? mutate(text, random) : text;
}

function positiveReply(number: number, random: Random): string {
  let text = '';
  while (random.chance(30)) text += `250-line #${number}${random.pick(['\r\n', '\n'])}`;
  return `${text}250${random.pick(['', ' ', ` #${number}`])}${random.pick(['\r\n', '\r\n', '\n'])}`;
}

/** A reply of a length near the limit. */
function longReply(random: Random): string {
  const line = `220-${'x'.repeat(random.pick([26, 1018, 10_000]))}\r\n`;
  const octets = REPLY_LIMIT - 8 + random.below(16);
  const lines = Math.floor((octets - 6) / line.length);
  const last = `220 ${'x'.repeat(Math.max(0, octets - lines * line.length - 6))}\r\n`;
  return line.repeat(lines) + last;
}

function textOf(outcome: OpeningOutcome): string {
  if (outcome.type === 'broken') return String(outcome.why);
  const replies = outcome.type === 'ready' ? [outcome.greeting, ...outcome.replies] : [outcome.reply];
  return replies.map(linesOf).join('');
}

function linesOf({ code, texts }: Reply): string {
  return texts.map((text, index) => `${code}${index + 1 < texts.length ? '-' : ' '}${text}\n`).join('');
}
