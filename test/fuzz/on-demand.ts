/**
 * One generated session with an smtpd on demand: a user that writes in pieces and pauses, closes and sends signals at
 * random; slots that are granted late or not at all; a real smtpd that is generated too. Every byte must arrive once
 * and in order: what the model of the prelude answers, then what the real smtpd sends.
 */

import { setImmediate } from 'node:timers/promises';
import { REPLIES } from '../../lib/smtp/reply.ts';
import { onDemand, type SmtpdSlot } from '../../lib/smtpd/on-demand.ts';
import type { Smtpd, SmtpdEnd } from '../../lib/smtpd/smtpd.ts';
import { createStoppedTimers, type StoppedTimers } from '../support/clock.ts';
import type { Entry } from '../support/transcript.ts';
import { type ExpectedPrelude, expectPrelude } from './expected.ts';
import { clientInput } from './input.ts';
import { generateIntroduction } from './introduction.ts';
import { firstPiece, SIZES } from './pieces.ts';
import { createRandom, type Random } from './random.ts';
import { generateSmtpd, type RealSmtpd } from './real-smtpd.ts';
import type { Play } from './run.ts';
import { type GeneratedSlot, generateSlot } from './slots.ts';
import { check, checkSame } from './violation.ts';

const ERROR_LIMITS = [1, 3, 100] as const;

/** How much may wait for the user beside one reply: as lib/stream/front.ts has it. */
const ENOUGH = 16384;

/** In milliseconds. */
const IDLE_TIMEOUT = 10_000;

/** How many rounds in which nothing happens a session may take to end, when everything goes on that can. */
const IDLE_ROUNDS = 50;

/** Plays one session to its end. */
export const playOnDemand: Play = async (seed, number, record) => {
  const timers = createStoppedTimers();
  const real = { setTimeout: globalThis.setTimeout, clearTimeout: globalThis.clearTimeout };
  Object.assign(globalThis, { setTimeout: timers.setTimeout, clearTimeout: timers.clearTimeout });
  try {
    await new OnDemandSession(createRandom(seed, number), timers, record).play();
  } finally {
    Object.assign(globalThis, real);
  }
};

class OnDemandSession {
  readonly #random: Random;
  readonly #timers: StoppedTimers;
  readonly #record: ((entry: Entry) => void) | undefined;
  readonly #text: string;
  readonly #isKnown: boolean;
  /** What the prelude should do, if there is one. */
  readonly #expected: ExpectedPrelude;
  readonly #largestReply: number;
  readonly #smtpd: Smtpd;
  readonly #size: (typeof SIZES)[number];
  /** In how many of a hundred pieces the user pauses when it receives one. */
  readonly #pauseRate: number;
  readonly #slots: GeneratedSlot[] = [];
  #real: RealSmtpd | undefined;
  #received = '';
  #isReading = false;
  #hasEnded = false;
  #written = 0;
  /** What waits to be taken by the smtpd. */
  #held: Buffer | undefined;
  #sinkEnded = false;
  #sinkFailed = false;
  #closed: 'source' | 'sink' | undefined;
  #isKilled = false;
  #end: SmtpdEnd | undefined;
  #violation: string | undefined;
  /** The opening was ended by a timeout, a signal or the user. */
  #isAborted = false;
  /** The idle timeout passed, or the session was cancelled, while commands waited to be answered. */
  #mayBeCut = false;

  constructor(random: Random, timers: StoppedTimers, record?: (entry: Entry) => void) {
    this.#random = random;
    this.#timers = timers;
    this.#record = record;
    const { text } = clientInput(random);
    this.#text = random.chance(3) ? 'NOOP\r\n'.repeat(1000 + random.below(3000)) + text : text;
    this.#size = this.#text.length > 3000 ? 'all' : random.pick(SIZES);
    this.#pauseRate = random.pick([0, 0, 30]);
    this.#isKnown = random.chance(92);
    const { introduction, ...replies } = generateIntroduction(random, true);
    const errorLimit = random.pick(ERROR_LIMITS);
    this.#expected = expectPrelude(this.#text, { ...replies, hello: undefined, errorLimit });
    this.#largestReply = Math.max(replies.greeting.length, replies.ehlo.length, replies.helo.length, 300);
    const start = onDemand({
      start: () => this.#start(),
      introduction: () => (this.#isKnown ? introduction : undefined),
      slot: () => this.#slot(),
      idleTimeout: IDLE_TIMEOUT,
      errorLimit,
      notice: () => {},
    });
    this.#smtpd = start({});
    this.#listen();
  }

  async play(): Promise<void> {
    void this.#smtpd.ended.then((end) => {
      this.#end = end;
    });
    await setImmediate();
    for (let left = this.#random.below(40); left > 0 && !this.#isOver(); left--) {
      this.#act();
      await setImmediate();
      this.#real?.react();
      this.#throwViolation();
    }
    await this.#finish();
    this.#checkEnd();
  }

  #isOver(): boolean {
    return this.#end !== undefined && (this.#hasEnded || this.#closed !== undefined);
  }

  /** Checks something in a call from the code under test, which must not see an error. */
  #check(holds: boolean, what: string): void {
    if (!holds) this.#violation ??= what;
  }

  #throwViolation(): void {
    check(this.#violation === undefined, this.#violation ?? '');
  }

  #note(text: string): void {
    this.#record?.({ type: 'notice', text });
  }

  // ---- what the smtpd on demand uses -----------------------------------------------------------------

  #slot(): SmtpdSlot {
    this.#note('a slot is requested');
    const areFree = this.#slots.every((slot) => slot.released() === 1 && slot.real === undefined);
    this.#check(areFree, 'one slot at a time');
    const isNeeded = !this.#isKnown || this.#expected.state() === 'needed';
    this.#check(isNeeded, 'a slot is requested when smtpd is needed');
    this.#mayBeCut = false;
    const slot = generateSlot(this.#random, (released) => this.#released(released));
    this.#slots.push(slot);
    return slot.slot;
  }

  #released({ real, isRefused, released }: GeneratedSlot): void {
    this.#note('a slot is released');
    this.#check(released() === 1, 'a slot is released once');
    if (real !== undefined) return this.#check(real.hasExited(), 'a slot is held until smtpd has exited');
    if (this.#isKilled || this.#closed !== undefined) return;
    this.#check(isRefused, 'a command is refused because there is no room');
    if (this.#isKnown) this.#expected.refuse(`${REPLIES.noRoomNow}`);
  }

  #start(): Smtpd {
    const slot = this.#slots.at(-1);
    this.#check(
      slot?.isSettled() === true && !slot.isRefused && slot.released() === 0,
      'smtpd is started with a slot',
    );
    this.#check(this.#real === undefined, 'one smtpd is started');
    this.#note('smtpd is started');
    const real = generateSmtpd(this.#random, this.#isKnown ? this.#expected.hello() : null);
    if (slot !== undefined) slot.real = real;
    this.#real = real;
    return real.smtpd;
  }

  // ---- the user --------------------------------------------------------------------------------------

  #listen(): void {
    this.#smtpd.source.listen({
      bytes: (bytes) => {
        this.#check(!this.#hasEnded, 'nothing follows the end');
        const mayCome = this.#isReading || this.#real?.isPushing() === true;
        this.#check(mayCome, 'nothing is sent to a user that has paused');
        this.#received += Buffer.from(bytes).toString('latin1');
        this.#record?.({ type: 'to-client', bytes: Buffer.from(bytes) });
        if (this.#random.chance(this.#pauseRate)) this.#pause();
      },
      ended: () => {
        this.#check(!this.#hasEnded, 'it ends once');
        this.#note('it has ended');
        this.#hasEnded = true;
      },
    });
    this.#smtpd.sink.listen({
      drained: () => {
        this.#note('more may be written');
        this.#check(this.#held !== undefined, 'drained follows a write that was not taken');
        this.#taken();
      },
      failed: () => {
        this.#sinkFailed = true;
        this.#taken();
      },
    });
  }

  #taken(): void {
    this.#held?.fill('#');
    this.#held = undefined;
  }

  #pause(): void {
    this.#note('the user pauses');
    this.#isReading = false;
    this.#smtpd.source.pause();
  }

  #read(): void {
    if (this.#isReading) return;
    this.#note('the user reads');
    this.#isReading = true;
    this.#smtpd.source.read();
  }

  /** Reads, but not for long if `isShort`: it pauses in the same turn. */
  #readFor(isShort: boolean): void {
    this.#read();
    if (isShort) this.#pause();
  }

  #write(): void {
    const bytes = Buffer.from(
      firstPiece(this.#text.slice(this.#written), this.#size, this.#random),
      'latin1',
    );
    this.#record?.({ type: 'client-sends', bytes: Buffer.from(bytes) });
    this.#written += bytes.length;
    this.#expected.read(bytes.length);
    this.#held = bytes;
    const isTaken = this.#smtpd.sink.write(bytes);
    if (isTaken) this.#taken();
    const opening = this.#real === undefined ? undefined : this.#real.opening();
    const waits = this.#slots.some(({ released }) => released() === 0) && opening === undefined;
    check(!waits || !isTaken || this.#end !== undefined, 'nothing is taken while smtpd is awaited');
    if (!isTaken || this.#real !== undefined || this.#end !== undefined) return;
    const waiting = this.#expected.text().length - this.#received.length;
    check(waiting < ENOUGH + this.#largestReply, `${waiting} octets wait for the user`);
  }

  #mayWrite(): boolean {
    if (this.#held !== undefined || this.#sinkEnded || this.#sinkFailed || this.#hasEnded) return false;
    return this.#closed !== 'sink';
  }

  /** Writes, or half-closes when all is written. */
  #goOn(): boolean {
    if (!this.#mayWrite()) return false;
    if (this.#written < this.#text.length) this.#write();
    else this.#endSink();
    return true;
  }

  #endSink(): void {
    this.#record?.({ type: 'client-ends' });
    this.#sinkEnded = true;
    this.#expected.clientEnded();
    this.#smtpd.sink.end();
  }

  #close(): void {
    const end = this.#random.chance(50) ? 'source' : 'sink';
    this.#note(`the user closes the ${end}`);
    this.#abort();
    this.#closed = end;
    this.#smtpd[end].close();
    if (end === 'sink') this.#held = undefined;
  }

  #kill(): void {
    this.#note('the user sends SIGTERM');
    this.#abort();
    this.#isKilled = true;
    this.#smtpd.kill('SIGTERM');
  }

  #abort(): void {
    this.#mayBeCut = true;
    if (this.#real?.opening() === undefined) this.#isAborted = true;
  }

  // ---- what happens ----------------------------------------------------------------------------------

  #act(): void {
    const random = this.#random;
    const kind = random.below(100);
    if (kind < 35) this.#goOn();
    else if (kind < 50) this.#readFor(random.chance(20));
    else if (kind < 55) this.#pause();
    else if (kind < 75) this.#sendFromReal();
    else if (kind < 85) this.#settleSlot();
    else if (kind < 89) this.#real?.take();
    else if (kind < 92 && this.#real?.opening() !== undefined) this.#real.stall();
    else if (kind === 92) this.#passTime();
    else if (kind === 93 && random.chance(50)) this.#real?.exit(random.chance(50));
    else if (kind === 94 && random.chance(30) && this.#closed === undefined) this.#close();
    else if (kind === 95 && random.chance(30)) this.#kill();
  }

  #sendFromReal(): void {
    const hasSent = this.#real?.send();
    // The opening may just have ended.
    if (hasSent && this.#closed === undefined && this.#random.chance(3)) this.#close();
  }

  #settleSlot(): void {
    const hasSettled = this.#slots.at(-1)?.settle();
    // It must not be used when the session ends in the same turn.
    if (hasSettled && this.#random.chance(10)) this.#kill();
  }

  /** Whether the session is with the prelude, which has processed all that was written. */
  #isIdle(): boolean {
    const isAwaited = this.#slots.some(({ released }) => released() === 0);
    if (!this.#isKnown || isAwaited || this.#real !== undefined || this.#end !== undefined) return false;
    return this.#expected.state() === 'open' && !this.#mayBeCut && !this.#sinkEnded;
  }

  #passTime(): void {
    check(!this.#isIdle() || this.#timers.pending() === 1, 'there is one idle timeout');
    const slot = this.#slots.at(-1);
    if (this.#timers.pending() === 0) return;
    this.#record?.({ type: 'timeout' });
    if (slot?.released() === 0 && slot.real === undefined) slot.isRefused = true;
    else if (this.#real !== undefined) this.#isAborted ||= this.#real.opening() === undefined;
    else if (this.#end === undefined && this.#held === undefined) this.#expected.timedOut();
    else this.#mayBeCut = true;
    this.#timers.fire(Number.POSITIVE_INFINITY);
  }

  /** Lets everything go on until the session has ended. */
  async #finish(): Promise<void> {
    let idle = 0;
    while (!this.#isOver() || this.#real?.hasExited() === false) {
      check(idle < IDLE_ROUNDS, 'it ends');
      if (this.#closed === undefined || this.#closed === 'sink') this.#read();
      this.#real?.take();
      const wrote = this.#goOn();
      const settled = this.#slots.at(-1)?.settle() ?? false;
      const sent = this.#real?.send() ?? false;
      this.#real?.react();
      const { length } = this.#received;
      await setImmediate();
      this.#real?.react();
      await setImmediate();
      this.#throwViolation();
      const isIdle = !wrote && !settled && !sent && length === this.#received.length;
      if (isIdle) idle += 1;
      if (!isIdle || idle % 3 !== 2 || this.#isOver()) continue;
      check(!this.#isIdle() || this.#held === undefined, 'what was written is taken');
      this.#passTime();
    }
    await setImmediate();
    if (this.#closed === undefined) await this.#listenAgain();
  }

  /** A listener that is set after the end is called with it. */
  async #listenAgain(): Promise<void> {
    let ends = 0;
    this.#smtpd.source.listen({
      bytes: () => this.#check(false, 'nothing follows the end'),
      ended: () => {
        ends += 1;
      },
    });
    await setImmediate();
    check(ends === 1, `${ends} ends for a new listener`);
    this.#pause();
    this.#read();
    await setImmediate();
    check(ends === 1, `${ends} ends after it has read again`);
  }

  /** What is sent in place of the real smtpd. */
  #sent(): string {
    if (this.#isKnown) return this.#expected.text();
    return this.#slots.some(({ isRefused }) => isRefused) ? `${REPLIES.tooBusy}` : '';
  }

  #checkEnd(): void {
    this.#throwViolation();
    check(this.#timers.pending() === 0, 'no timer is left');
    check(
      this.#slots.every(({ released }) => released() === 1),
      'every slot is released',
    );
    const real = this.#real;
    const opening = this.#isAborted ? 'broken' : (real?.opening() ?? 'broken');
    const all = this.#sent() + (opening === 'broken' ? '' : (real?.visible() ?? ''));
    const tooSlow = `${REPLIES.tooSlow}`;
    if (this.#closed !== undefined || this.#mayBeCut) {
      const isTimeout = this.#received.endsWith(tooSlow) && !all.startsWith(this.#received);
      const received = isTimeout ? this.#received.slice(0, -tooSlow.length) : this.#received;
      checkSame(received, all.slice(0, received.length), 'the user: ');
      check(!isTimeout || /(?:^|\n)\d{3} [^\n]*\n$|^$/.test(received), 'replies are whole');
    } else checkSame(this.#received, all, 'the user: ');
    if (real === undefined) return check(this.#end?.failure === undefined, 'there is no failure');
    check((opening === 'broken') === (this.#end?.failure !== undefined), 'a broken opening is a failure');
    check(real.smtpd.overruns() === 0, 'nothing is written while smtpd has not taken the last');
    this.#checkReal(real, opening);
  }

  #checkReal(real: RealSmtpd, opening: string): void {
    const behind = this.#isKnown
      ? this.#expected.rest(opening === 'refused')
      : this.#text.slice(0, this.#written);
    const all = real.hello + (opening === 'broken' ? '' : behind);
    const received = real.received();
    const isWhole =
      opening !== 'broken' && !this.#sinkFailed && this.#closed === undefined && !this.#isKilled;
    checkSame(received, isWhole ? all : all.slice(0, received.length), 'smtpd: ');
    if (isWhole) check(real.smtpd.hasEnded() || !this.#sinkEnded, 'the end of the client is passed on');
  }
}
