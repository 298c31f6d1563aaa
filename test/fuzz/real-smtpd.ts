import type { SmtpdEnd } from '../../lib/smtpd/smtpd.ts';
import { createTestSmtpd, type TestSmtpd } from '../support/test-stream.ts';
import { invalidReply } from './input.ts';
import { firstPiece, SIZES } from './pieces.ts';
import type { Random } from './random.ts';

/** How the opening with a generated smtpd ends, if nothing happens that ends it before. */
export type Opening = 'ready' | 'refused' | 'broken';

/** An smtpd that answers in pieces, refuses, fails, stalls, exits. */
export interface RealSmtpd {
  readonly smtpd: TestSmtpd;
  /** The hello that it must receive first; empty if none is due, or none after its greeting. */
  readonly hello: string;
  /** How its opening has ended; undefined while it has not. */
  opening(): Opening | undefined;
  /** What it has sent behind its opening, or from the refusal on. */
  visible(): string;
  /** It sends a piece if it can. @returns false if there was nothing to send. */
  send(): boolean;
  /** Whether it is delivering a piece although its Source is paused. */
  isPushing(): boolean;
  /** It reads no more until `take`. */
  stall(): void;
  take(): void;
  /** It answers what it has received; it exits if it is to end. */
  react(): void;
  /** It exits; `isFirst` if its output comes to its end later. */
  exit(isFirst: boolean): void;
  hasExited(): boolean;
  /** All that it had received when it exited. */
  received(): string;
}

/**
 * Generates an smtpd.
 *
 * @param hello the line with which the client is to be introduced; undefined if it is not, null for an smtpd whose
 * opening the client holds itself.
 */
export function generateSmtpd(random: Random, hello: string | undefined | null): RealSmtpd {
  const smtpd = createTestSmtpd();
  const size = random.pick(SIZES);
  const stallsAtFirst = random.chance(20);
  const [greeting, greets] = openingReply(random, 'greeting');
  const [helloReply, accepts] = openingReply(random, 'hello');
  const isIntroduced = typeof hello === 'string' && greets === 'ready';
  const outcome = hello === null ? 'ready' : isIntroduced ? accepts : greets;
  let openingLength = greeting.length + (isIntroduced ? helloReply.length : 0);
  let visibleFrom = openingLength;
  if (hello === null) openingLength = visibleFrom = 0;
  if (outcome === 'refused') visibleFrom = isIntroduced ? greeting.length : 0;
  let opening: Opening | undefined = hello === null ? 'ready' : undefined;
  let unsent = greeting;
  let sent = '';
  let answered = 0;
  let lines = 0;
  let isStalled = false;
  let end: SmtpdEnd | undefined;
  let hasFinished = false;
  let lastReceived = '';
  /** A paused Source may deliver once more. */
  let mayPush = true;
  let isPushing = false;

  function send(): boolean {
    if (unsent === '' || hasFinished || smtpd.closed().includes('source')) return false;
    const isRead = smtpd.isRead();
    if (!isRead && !mayPush) return false;
    mayPush = isRead;
    const piece = firstPiece(unsent, size, random);
    unsent = unsent.slice(piece.length);
    sent += piece;
    if (opening === undefined && outcome !== 'broken' && sent.length >= openingLength) {
      opening = outcome;
      if (stallsAtFirst) stall();
    }
    isPushing = !isRead;
    if (isRead) smtpd.send(piece);
    else smtpd.push(piece);
    isPushing = false;
    return true;
  }

  function stall(): void {
    isStalled = true;
    smtpd.stall();
  }

  function take(): void {
    if (!isStalled) return;
    isStalled = false;
    smtpd.take();
  }

  function react(): void {
    if (end !== undefined) {
      if (unsent === '') finish();
      return;
    }
    if (smtpd.signals().length > 0 || smtpd.closed().includes('source')) return exit(false);
    if (isStalled) return;
    const received = smtpd.received();
    for (let next = received.indexOf('\n', answered); next >= 0; next = received.indexOf('\n', answered)) {
      answered = next + 1;
      unsent += lines === 0 && isIntroduced ? helloReply : `250 r${lines}\r\n`;
      lines += 1;
    }
    if (smtpd.hasEnded() && unsent === '') exit(false);
  }

  function exit(isFirst: boolean): void {
    if (end !== undefined) return;
    end = { status: random.below(3) };
    if (!isFirst) {
      unsent = '';
      finish();
    }
    lastReceived = smtpd.received();
    // Writes fail from now on, unless all were made.
    if (isStalled || !smtpd.hasEnded()) smtpd.fail();
    smtpd.exit(end);
  }

  function finish(): void {
    if (hasFinished) return;
    hasFinished = true;
    if (opening === undefined) opening = 'broken';
    smtpd.finish();
  }

  return {
    smtpd,
    hello: isIntroduced ? `${hello}\r\n` : '',
    opening: () => opening,
    visible: () => (opening === 'broken' ? '' : sent.slice(visibleFrom)),
    send,
    isPushing: () => isPushing,
    stall,
    take,
    react,
    exit,
    hasExited: () => end !== undefined,
    received: () => lastReceived,
  };
}

function openingReply(random: Random, name: string): readonly [text: string, opening: Opening] {
  const more = random.chance(30) ? `-${name}` : '';
  const lines = (code: number): string => `${more === '' ? '' : `${code}${more}\r\n`}${code} ${name}\r\n`;
  if (random.chance(70)) return [lines(250), 'ready'];
  if (random.chance(40)) return [lines(554), 'refused'];
  // It sends nothing, or no reply.
  return [random.chance(50) ? '' : `oops\r\n${invalidReply(0, random)}`, 'broken'];
}
