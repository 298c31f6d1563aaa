/**
 * One made-up connection: a client that pipelines at will, an smtpd that may lose its mind, packets that
 * end anywhere, and a driver that keeps the rules. At every moment the dialogue must do what the model
 * does, and must keep a few promises that need no model to be checked.
 */

import { createDialogue, type Dialogue, type Step } from '../../lib/smtp/dialogue.ts';
import { LINE_LIMIT } from '../../lib/smtp/line.ts';
import { createModel, type Model } from '../support/model.ts';
import type { Entry } from '../support/transcript.ts';
import { type ClientSpeech, clientSpeech, noReply, replyTo, unaskedReply } from './input.ts';
import { createRandom, type Random } from './random.ts';

const OPTIONS = [
  { requireTls: false, plaintextAuth: false },
  { requireTls: false, plaintextAuth: false },
  { requireTls: true, plaintextAuth: false },
  { requireTls: false, plaintextAuth: true },
] as const;

/** What a client of this fuzzer reaches now and then, and what it hardly ever does. */
const ERROR_LIMITS = [1, 3, 5, 100] as const;

/** How large packets are: all that there is, a line, a few bytes, or now this and now that. */
const SIZES = ['all', 'all', 'line', 'few', 'any'] as const;
type Size = (typeof SIZES)[number];

/** A promise that was not kept. */
export class BrokenPromise extends Error {
  override name = 'BrokenPromise';
}

function promise(kept: boolean, what: string): void {
  if (!kept) throw new BrokenPromise(what);
}

/**
 * Plays one connection from its beginning to its verdict.
 *
 * @param seed and
 * @param number name the connection: it is the same whenever they are.
 * @param record is given all that happens, for a transcript.
 * @throws BrokenPromise, or whatever the dialogue throws.
 */
export function playConnection(seed: number, number: number, record?: (entry: Entry) => void): void {
  new Connection(createRandom(seed, number), record).play();
}

class Connection {
  readonly #random: Random;
  readonly #record: ((entry: Entry) => void) | undefined;
  readonly #speech: ClientSpeech;
  readonly #dialogue: Dialogue;
  readonly #model: Model;
  readonly #clientSize: Size;
  readonly #smtpdSize: Size;
  /** How often, in a hundred replies, smtpd does what it should not. */
  readonly #madness: number;
  #readTo = 0;
  #largestPacket = 0;
  #clientEnded = false;
  #smtpdEnded = false;
  /** What smtpd has to say and has not said yet. */
  #saying: string;
  #endsSoon = false;
  #isHonest = true;
  #replyNumber = 0;
  #lineEnds = 0;
  #verdict = '';
  #heardBySmtpd = '';
  #heardByClient = '';

  constructor(random: Random, record?: (entry: Entry) => void) {
    this.#random = random;
    this.#record = record;
    this.#speech = clientSpeech(random);
    const options = { ...random.pick(OPTIONS), errorLimit: random.pick(ERROR_LIMITS) };
    this.#dialogue = createDialogue(options);
    this.#model = createModel(this.#speech.text, options);
    this.#clientSize = random.pick(SIZES);
    this.#smtpdSize = random.pick(SIZES);
    this.#madness = random.chance(60) ? 0 : 8;
    this.#saying = replyTo('GREETING', this.#replyNumber++, random);
  }

  play(): void {
    this.#settle();
    while (this.#verdict === '') {
      this.#letSomethingHappen();
      this.#settle();
    }
    this.#checkRest();
    this.#checkCounts();
    this.#checkSilence();
  }

  // ---- what happens --------------------------------------------------------------------------------

  #letSomethingHappen(): void {
    const random = this.#random;
    const listens = this.#dialogue.wantsClient();
    const clientHasMore = this.#readTo < this.#speech.text.length;
    if (random.chance(0.1)) this.#timeOut();
    else if (this.#madness > 0 && random.chance(1) && this.#mayEnd()) this.#endSmtpd();
    else if (this.#saying !== '' && !(listens && clientHasMore && random.chance(30))) this.#smtpdSays();
    else if (this.#endsSoon) this.#endSmtpd();
    else if (listens && clientHasMore) this.#clientSays();
    else if (listens) this.#endClient();
    else this.#endSmtpd();
  }

  #clientSays(): void {
    const text = this.#piece(this.#speech.text.slice(this.#readTo), this.#clientSize);
    const bytes = Buffer.from(text, 'latin1');
    this.#record?.({ type: 'client-sends', bytes });
    this.#count(bytes);
    this.#readTo += bytes.length;
    this.#model.read(bytes.length);
    this.#dialogue.fromClient(bytes);
    // The driver uses its buffer again.
    bytes.fill(0x58);
  }

  #smtpdSays(): void {
    const text = this.#piece(this.#saying, this.#smtpdSize);
    this.#saying = this.#saying.slice(text.length);
    const bytes = Buffer.from(text, 'latin1');
    this.#record?.({ type: 'smtpd-sends', bytes });
    this.#count(bytes);
    this.#model.said(text);
    this.#dialogue.fromSmtpd(bytes);
    bytes.fill(0x58);
  }

  #count(bytes: Buffer): void {
    this.#largestPacket = Math.max(this.#largestPacket, bytes.length);
    for (const byte of bytes) if (byte === 0x0a) this.#lineEnds++;
  }

  #piece(text: string, size: Size): string {
    const random = this.#random;
    switch (size === 'any' ? random.pick(SIZES) : size) {
      case 'line':
        return text.slice(0, text.indexOf('\n') + 1 || undefined);
      case 'few':
        return text.slice(0, 1 + random.below(text.length > 3000 ? 3000 : 8));
      case 'any':
        return text.slice(0, 1 + random.below(text.length));
      default:
        return text;
    }
  }

  #endClient(): void {
    this.#record?.({ type: 'client-ends' });
    this.#clientEnded = true;
    this.#model.clientEnded();
    this.#dialogue.clientEnded();
  }

  /** What is right about last words that are over the limit or end with CR is a matter of taste. */
  #mayEnd(): boolean {
    const left = this.#model.rest().smtpd;
    return left.length < LINE_LIMIT && !left.endsWith('\r');
  }

  #endSmtpd(): void {
    this.#record?.({ type: 'smtpd-ends' });
    this.#smtpdEnded = true;
    this.#saying = '';
    this.#model.smtpdEnded();
    this.#dialogue.smtpdEnded();
  }

  #timeOut(): void {
    this.#record?.({ type: 'timeout' });
    this.#model.timedOut();
    this.#dialogue.timedOut();
  }

  /** smtpd makes up its mind about a command. */
  #obey(line: string): void {
    const random = this.#random;
    const isMad = random.chance(this.#madness);
    const whim = random.below(4);
    if (isMad) this.#isHonest = false;
    if (isMad && whim === 0) this.#saying += noReply(this.#replyNumber++, random);
    if (isMad && whim === 1) this.#saying += unaskedReply(this.#replyNumber++, random);
    if (isMad && whim === 2) this.#endsSoon = true;
    if (!this.#endsSoon || random.chance(50)) this.#saying += replyTo(line, this.#replyNumber++, random);
    if (isMad && whim === 3) this.#saying += unaskedReply(this.#replyNumber++, random);
    if (line === 'QUIT') this.#endsSoon = true;
  }

  // ---- what the dialogue does about it -------------------------------------------------------------

  #settle(): void {
    let actual = '';
    let sayingTo = '';
    let steps = 0;
    for (let step = this.#dialogue.next(); step !== undefined; step = this.#dialogue.next()) {
      this.#record?.(step);
      promise(this.#verdict === '', 'nothing is said after the verdict');
      promise(++steps <= 5 + 4 * this.#lineEnds, 'the steps have an end');
      const [to, text] = this.#take(step);
      actual += to + text;
      sayingTo = to;
    }
    if (sayingTo === '=' && this.#verdict === '') throw new BrokenPromise('a verdict was lost');
    const expected = this.#model.settle();
    if (actual !== expected) {
      throw new BrokenPromise(`did ${JSON.stringify(actual)}, should ${JSON.stringify(expected)}`);
    }
    promise(this.#dialogue.wantsClient() === this.#model.listens(), 'the client is read when it should be');
    const { client, smtpd } = this.#dialogue.rest();
    const bound = LINE_LIMIT + this.#largestPacket;
    promise(client.length <= bound && smtpd.length <= bound, 'memory is bounded');
  }

  /** Carries out a step; returns it as the model writes it. */
  #take(step: Step): [to: string, text: string] {
    switch (step.type) {
      case 'to-client': {
        const text = step.bytes.toString('latin1');
        this.#heardByClient += text;
        return ['S', text];
      }
      case 'to-smtpd': {
        const text = step.bytes.toString('latin1');
        promise(/^[^\r\n\0]*\r\n$/.test(text), 'smtpd hears whole, sound lines');
        promise(!this.#isHonest || this.#saying === '', 'smtpd hears no command before it answered the last');
        this.#heardBySmtpd += text;
        this.#obey(text.trim());
        return ['>', text];
      }
      case 'end-smtpd':
        return ['>', '(end)'];
      case 'notice':
        return ['!', ''];
      case 'verdict':
        this.#verdict = step.verdict;
        return ['=', step.verdict];
    }
  }

  // ---- promises that need no model -----------------------------------------------------------------

  /** Nothing is lost and nothing doubled; nothing was read behind STARTTLS. */
  #checkRest(): void {
    const rest = this.#dialogue.rest();
    const client = rest.client.toString('latin1');
    const read = this.#speech.text.slice(0, this.#readTo);
    if (this.#verdict === 'plaintext') {
      promise(read.endsWith(client), 'the relay begins with what was read last');
      promise(/^\s*(?:MAIL|HELO|AUTH)\s/i.test(client), 'the relay begins with MAIL, HELO or AUTH');
    }
    if (this.#verdict === 'tls') {
      promise(client === '', 'no byte is left for TLS');
      promise(/STARTTLS\s*\n$/i.test(read), 'no byte behind STARTTLS is read');
      promise(this.#heardBySmtpd.endsWith('RSET\r\n'), 'smtpd heard nothing behind RSET');
    }
    if (this.#verdict === 'close') return;
    promise(client === this.#model.rest().client, 'the rest of the client is whole');
    const left = this.#model.rest().smtpd;
    if (left.length < LINE_LIMIT)
      promise(rest.smtpd.toString('latin1') === left, 'the rest of smtpd is whole');
  }

  /** One reply to each command, in the order of the commands. */
  #checkCounts(): void {
    if (!this.#isHonest) return;
    promise(ascends(this.#heardByClient), 'replies keep their order');
    if (!this.#speech.sound) return;
    promise(ascends(this.#heardBySmtpd), 'commands keep their order');
    const isWhole = this.#verdict === 'close' && this.#clientEnded && this.#smtpdEnded;
    const isDisturbed = /^(?:421 4\.|503 5\.5\.1 Wait for)/m.test(this.#heardByClient);
    if (!isWhole || isDisturbed) return;
    const replies = this.#heardByClient.match(/^\d{3} /gm)?.length;
    promise(replies === 1 + this.#speech.commands, `${replies} replies to ${this.#speech.commands} commands`);
  }

  /** Whatever comes after a verdict, the dialogue has nothing more to say. */
  #checkSilence(): void {
    this.#dialogue.timedOut();
    this.#dialogue.clientEnded();
    this.#dialogue.smtpdEnded();
    promise(this.#dialogue.next() === undefined, 'nothing is said after the verdict');
    promise(!this.#dialogue.wantsClient(), 'the client is not read after the verdict');
  }
}

function ascends(text: string): boolean {
  let before = -1;
  for (const [, number] of text.matchAll(/#(\d+)/g)) {
    if (Number(number) < before) return false;
    before = Number(number);
  }
  return true;
}
