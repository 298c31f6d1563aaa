/**
 * One generated connection: a client that pipelines at random, an smtpd that may violate the protocol, packets that
 * end anywhere, and a driver that follows the rules. At every step the dialogue must do what the model does, and
 * must have some properties that are checked without the model.
 */

import { createDialogue, type Dialogue, type Step } from '../../lib/smtp/dialogue.ts';
import { LINE_LIMIT } from '../../lib/smtp/line.ts';
import { createModel, type Model } from '../support/model.ts';
import type { Entry } from '../support/transcript.ts';
import { type ClientInput, clientInput, invalidReply, replyTo, unsolicitedReply } from './input.ts';
import { firstPiece, SIZES, type Size } from './pieces.ts';
import { createRandom, type Random } from './random.ts';
import { check, checkSame, Violation } from './violation.ts';

const OPTIONS = [
  { requireTls: false, plaintextAuth: false },
  { requireTls: false, plaintextAuth: false },
  { requireTls: true, plaintextAuth: false },
  { requireTls: false, plaintextAuth: true },
] as const;

/** Limits that a client of this fuzzer reaches sometimes, and one that it hardly ever does. */
const ERROR_LIMITS = [1, 3, 5, 100] as const;

/**
 * Plays one connection from its beginning to its verdict.
 *
 * @param seed and
 * @param number name the connection: it is the same whenever they are.
 * @param record receives everything that happens, for a transcript.
 * @throws Violation, or what the dialogue throws.
 */
export function playConnection(seed: number, number: number, record?: (entry: Entry) => void): void {
  new Connection(createRandom(seed, number), record).play();
}

class Connection {
  readonly #random: Random;
  readonly #record: ((entry: Entry) => void) | undefined;
  readonly #input: ClientInput;
  readonly #dialogue: Dialogue;
  readonly #model: Model;
  readonly #clientSize: Size;
  readonly #smtpdSize: Size;
  /** In how many of a hundred replies smtpd violates the protocol. */
  readonly #faultRate: number;
  #readTo = 0;
  #largestPacket = 0;
  #clientEnded = false;
  #smtpdEnded = false;
  /** What smtpd has still to send. */
  #unsent: string;
  #endsSoon = false;
  #isRegular = true;
  #replyNumber = 0;
  #lineEnds = 0;
  #verdict = '';
  #toSmtpd = '';
  #toClient = '';

  constructor(random: Random, record?: (entry: Entry) => void) {
    this.#random = random;
    this.#record = record;
    this.#input = clientInput(random);
    const options = { ...random.pick(OPTIONS), errorLimit: random.pick(ERROR_LIMITS) };
    this.#dialogue = createDialogue(options);
    this.#model = createModel(this.#input.text, options);
    this.#clientSize = random.pick(SIZES);
    this.#smtpdSize = random.pick(SIZES);
    this.#faultRate = random.chance(60) ? 0 : 8;
    this.#unsent = replyTo('GREETING', this.#replyNumber++, random);
  }

  play(): void {
    this.#settle();
    while (this.#verdict === '') {
      this.#act();
      this.#settle();
    }
    this.#checkRest();
    this.#checkCounts();
    this.#checkNothingFollows();
  }

  // ---- what happens --------------------------------------------------------------------------------

  #act(): void {
    const random = this.#random;
    const wantsClient = this.#dialogue.wantsClient();
    const clientHasMore = this.#readTo < this.#input.text.length;
    if (random.chance(0.1)) this.#timeOut();
    else if (this.#faultRate > 0 && random.chance(1) && this.#mayEnd()) this.#endSmtpd();
    else if (this.#unsent !== '' && !(wantsClient && clientHasMore && random.chance(30))) this.#smtpdSends();
    else if (this.#endsSoon) this.#endSmtpd();
    else if (wantsClient && clientHasMore) this.#clientSends();
    else if (wantsClient) this.#endClient();
    else this.#endSmtpd();
  }

  #clientSends(): void {
    const text = firstPiece(this.#input.text.slice(this.#readTo), this.#clientSize, this.#random);
    const bytes = Buffer.from(text, 'latin1');
    this.#record?.({ type: 'client-sends', bytes });
    this.#count(bytes);
    this.#readTo += bytes.length;
    this.#model.read(bytes.length);
    this.#dialogue.fromClient(bytes);
    // The driver uses its buffer again.
    bytes.fill(0x58);
  }

  #smtpdSends(): void {
    const text = firstPiece(this.#unsent, this.#smtpdSize, this.#random);
    this.#unsent = this.#unsent.slice(text.length);
    const bytes = Buffer.from(text, 'latin1');
    this.#record?.({ type: 'smtpd-sends', bytes });
    this.#count(bytes);
    this.#model.smtpdSent(text);
    this.#dialogue.fromSmtpd(bytes);
    bytes.fill(0x58);
  }

  #count(bytes: Buffer): void {
    this.#largestPacket = Math.max(this.#largestPacket, bytes.length);
    for (const byte of bytes) if (byte === 0x0a) this.#lineEnds++;
  }

  #endClient(): void {
    this.#record?.({ type: 'client-ends' });
    this.#clientEnded = true;
    this.#model.clientEnded();
    this.#dialogue.clientEnded();
  }

  /** The result is undefined if smtpd ends with output that is over the limit or ends with CR. */
  #mayEnd(): boolean {
    const left = this.#model.rest().smtpd;
    return left.length < LINE_LIMIT && !left.endsWith('\r');
  }

  #endSmtpd(): void {
    this.#record?.({ type: 'smtpd-ends' });
    this.#smtpdEnded = true;
    this.#unsent = '';
    this.#model.smtpdEnded();
    this.#dialogue.smtpdEnded();
  }

  #timeOut(): void {
    this.#record?.({ type: 'timeout' });
    this.#model.timedOut();
    this.#dialogue.timedOut();
  }

  /** Chooses smtpd's response to a command. */
  #respond(line: string): void {
    const random = this.#random;
    const isFaulty = random.chance(this.#faultRate);
    const fault = random.below(4);
    if (isFaulty) this.#isRegular = false;
    if (isFaulty && fault === 0) this.#unsent += invalidReply(this.#replyNumber++, random);
    if (isFaulty && fault === 1) this.#unsent += unsolicitedReply(this.#replyNumber++, random);
    if (isFaulty && fault === 2) this.#endsSoon = true;
    if (!this.#endsSoon || random.chance(50)) this.#unsent += replyTo(line, this.#replyNumber++, random);
    if (isFaulty && fault === 3) this.#unsent += unsolicitedReply(this.#replyNumber++, random);
    if (line === 'QUIT') this.#endsSoon = true;
  }

  // ---- the steps of the dialogue -------------------------------------------------------------------

  #settle(): void {
    let actual = '';
    let lastTo = '';
    let steps = 0;
    for (let step = this.#dialogue.next(); step !== undefined; step = this.#dialogue.next()) {
      this.#record?.(step);
      check(this.#verdict === '', 'nothing is sent after the verdict');
      check(++steps <= 5 + 4 * this.#lineEnds, 'the number of steps is bounded');
      const [to, text] = this.#take(step);
      actual += to + text;
      lastTo = to;
    }
    if (lastTo === '=' && this.#verdict === '') throw new Violation('a verdict was lost');
    checkSame(actual, this.#model.settle());
    check(this.#dialogue.wantsClient() === this.#model.wantsClient(), 'the client is read when it should be');
    const { client, smtpd } = this.#dialogue.rest();
    const bound = LINE_LIMIT + this.#largestPacket;
    check(client.length <= bound && smtpd.length <= bound, 'memory is bounded');
  }

  /** Carries out a step; returns it as the model writes it. */
  #take(step: Step): [to: string, text: string] {
    switch (step.type) {
      case 'to-client': {
        const text = step.bytes.toString('latin1');
        this.#toClient += text;
        return ['S', text];
      }
      case 'to-smtpd': {
        const text = step.bytes.toString('latin1');
        check(/^[^\r\n\0]*\r\n$/.test(text), 'smtpd receives complete, valid lines');
        check(
          !this.#isRegular || this.#unsent === '',
          'smtpd receives no command before it has answered the last',
        );
        this.#toSmtpd += text;
        this.#respond(text.trim());
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

  // ---- properties checked without the model --------------------------------------------------------

  /** Nothing is lost or duplicated; nothing was read after STARTTLS. */
  #checkRest(): void {
    const rest = this.#dialogue.rest();
    const client = rest.client.toString('latin1');
    const read = this.#input.text.slice(0, this.#readTo);
    if (this.#verdict === 'plaintext') {
      check(read.endsWith(client), 'the relay begins with what was read last');
      check(/^\s*(?:MAIL|HELO|AUTH)\s/i.test(client), 'the relay begins with MAIL, HELO or AUTH');
    }
    if (this.#verdict === 'tls') {
      check(client === '', 'no byte is left for TLS');
      check(/STARTTLS\s*\n$/i.test(read), 'no byte after STARTTLS is read');
      check(this.#toSmtpd.endsWith('RSET\r\n'), 'smtpd has received nothing after RSET');
    }
    if (this.#verdict === 'close') return;
    check(client === this.#model.rest().client, 'the rest of the client is whole');
    const left = this.#model.rest().smtpd;
    if (left.length < LINE_LIMIT) check(rest.smtpd.toString('latin1') === left, 'the rest of smtpd is whole');
  }

  /** One reply to each command, in the order of the commands. */
  #checkCounts(): void {
    if (!this.#isRegular) return;
    check(ascends(this.#toClient), 'replies keep their order');
    if (!this.#input.sound) return;
    check(ascends(this.#toSmtpd), 'commands keep their order');
    const isWhole = this.#verdict === 'close' && this.#clientEnded && this.#smtpdEnded;
    const isDisturbed = /^(?:421 4\.|503 5\.5\.1 Wait for)/m.test(this.#toClient);
    if (!isWhole || isDisturbed) return;
    const replies = this.#toClient.match(/^\d{3} /gm)?.length;
    check(replies === 1 + this.#input.commands, `${replies} replies to ${this.#input.commands} commands`);
  }

  /** After a verdict no event causes a step. */
  #checkNothingFollows(): void {
    this.#dialogue.timedOut();
    this.#dialogue.clientEnded();
    this.#dialogue.smtpdEnded();
    check(this.#dialogue.next() === undefined, 'nothing is sent after the verdict');
    check(!this.#dialogue.wantsClient(), 'the client is not read after the verdict');
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
