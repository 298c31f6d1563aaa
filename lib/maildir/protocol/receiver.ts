/**
 * The reception: a small SMTP server (RFC 5321), from its greeting to the end of the connection.
 *
 * RULES. Everything that decides what a client hears and when stands in this file; transaction.ts and
 * data.ts know the parts. It does no I/O and knows no clock: bytes go in, steps come out, and the driver
 * (receive.ts) carries them out in their order.
 *
 * THEORY OF OPERATION
 *
 * One thing at a time: a command line, or as much of a message as there is, becomes steps only when the
 * steps before are done with. So replies are in the order of their commands however the client pipelines
 * (RFC 2920), a driver that takes no further step while the client does not read needs no memory for
 * replies, and no octet is read as a command before it is clear that it is not part of a message.
 *
 * What is kept is one read of input, one line, and the envelope: a hundred recipients at most. A message
 * passes through in pieces.
 *
 * A message that is not wanted is read to its end all the same, because only there the client listens.
 */

import { parseCommand } from '../../smtp/command.ts';
import { createLineReader, type Line } from '../../smtp/line.ts';
import { REPLIES } from '../../smtp/reply.ts';
import { createDataReader, type DataReader } from './data.ts';
import { ANSWERS, answer, extensions } from './replies.ts';
import { createTransaction, type Envelope } from './transaction.ts';

/** The longest command line that is taken, in octets; RFC 5321 section 4.5.3.1.4 asks for 512. */
export const COMMAND_LIMIT = 2048;

/** How many commands may be refused for good before the client is. */
export const ERROR_LIMIT = 20;

/** What the driver is to do next. */
export type Step =
  | { readonly type: 'reply'; readonly bytes: Buffer }
  /** Make room for a message. To be answered with `opened` or `failed`. */
  | { readonly type: 'open'; readonly envelope: Envelope }
  /** Add to it. The bytes are good until the next call. To be answered with `failed`, if it does. */
  | { readonly type: 'write'; readonly bytes: Buffer }
  /** Nothing: a piece of a message went by that will be refused. The client is not idle. */
  | { readonly type: 'skip' }
  /** It is whole: store it for good. To be answered with `stored` or `failed`. */
  | { readonly type: 'store' }
  /** It will not be stored: leave nothing of it. */
  | { readonly type: 'discard' }
  /** All is said. `quit` when the client said so, `ended` when it hung up between messages, else `cut`. */
  | { readonly type: 'close'; readonly cause: 'quit' | 'ended' | 'cut' };

/** What the one who runs the server decides. */
export interface ReceptionOptions {
  /** The name of this host. */
  readonly host: string;
  /** The size of the largest message that is taken, in octets as RFC 1870 counts them; 0 for any. */
  readonly sizeLimit: number;
}

/** The reception of one client. */
export interface Reception {
  /** Takes what the client said. */
  fromClient(bytes: Uint8Array): void;
  /** The client will say no more (it may still listen). */
  clientEnded(): void;
  /** There is room for the message. */
  opened(): void;
  /** The message is stored. */
  stored(): void;
  /** What the last step asked for did not work, and nothing is left of the message. */
  failed(): void;
  /** Nothing happened for too long: the client hears 421. */
  timedOut(): void;
  /** The server is to end: the client hears 421. */
  terminated(): void;
  /** The next thing to do; undefined when there is none until something comes in. */
  next(): Step | undefined;
}

type Phase = 'commands' | 'opening' | 'message' | 'end-of-message' | 'storing' | 'closed';

/** Commands that others know: "not offered" is politer than "no such command". */
const NOT_OFFERED = new Set(['AUTH', 'BDAT', 'ETRN', 'EXPN', 'LHLO', 'STARTTLS', 'TURN']);

const LF = 0x0a;
const FIVE = 0x35;
const NOTHING: Buffer = Buffer.alloc(0);

/** Begins a reception, with the greeting. */
export function createReception({ host, sizeLimit }: ReceptionOptions): Reception {
  const lines = createLineReader(COMMAND_LIMIT);
  const transaction = createTransaction(sizeLimit);
  const steps: Step[] = [{ type: 'reply', bytes: answer(`220 ${host} ESMTP`) }];
  /** Where input is kept, over and over: a new buffer for each read would be 50 MB until they are collected. */
  let room = NOTHING;
  let input = NOTHING;
  let phase: Phase = 'commands';
  let message: DataReader = createDataReader();
  /** Why the message that is on its way will be refused. */
  let refusal: Buffer | undefined;
  let errors = 0;
  let clientGone = false;

  // ---- commands ------------------------------------------------------------------------------------

  const commands: ReadonlyMap<string, (argument: string) => void> = new Map([
    ['EHLO', (name: string) => greet(name, true)],
    ['HELO', (name: string) => greet(name, false)],
    ['MAIL', (argument: string) => say(transaction.mail(argument))],
    ['RCPT', (argument: string) => say(transaction.rcpt(argument))],
    ['DATA', bare(openMessage)],
    ['RSET', bare(reset)],
    ['QUIT', bare(() => close('quit', ANSWERS.goodbye))],
    ['NOOP', () => say(ANSWERS.ok)],
    ['HELP', () => say(ANSWERS.help)],
    ['VRFY', (argument: string) => say(argument === '' ? ANSWERS.needsArgument : ANSWERS.willTry)],
    ['', () => say(REPLIES.noCommand)],
  ]);

  function takeCommand(line: Line): void {
    if (line.fault === 'too-long') return say(REPLIES.tooLong);
    if (line.fault === 'control') return say(REPLIES.controls);
    const text = line.text.toString('latin1').trim();
    const verb = (/^\S*/.exec(text)?.[0] ?? '').toUpperCase();
    const command = commands.get(verb);
    if (command !== undefined) return command(text.slice(verb.length).trim());
    // A browser that was led here would go on with what its page wants us to hear.
    if (parseCommand(line.text).kind === 'foreign') return close('cut', REPLIES.notHttp);
    say(NOT_OFFERED.has(verb) ? ANSWERS.notOffered : ANSWERS.unknown);
  }

  /** A command that takes no argument. */
  function bare(command: () => void): (argument: string) => void {
    return (argument) => (argument === '' ? command() : say(ANSWERS.noArgument));
  }

  function greet(name: string, extended: boolean): void {
    if (name === '') return say(ANSWERS.noName);
    transaction.greet(name, extended);
    say(extended ? extensions(host, sizeLimit) : answer(`250 ${host}`));
  }

  function reset(): void {
    transaction.reset();
    say(ANSWERS.ok);
  }

  /** Answers the command at hand. Whoever is wrong again and again is no mail client. */
  function say(reply: Buffer): void {
    if (reply[0] === FIVE) errors += 1;
    if (errors > ERROR_LIMIT) close('cut', ANSWERS.tooManyErrors);
    else steps.push({ type: 'reply', bytes: reply });
  }

  // ---- messages ------------------------------------------------------------------------------------

  function openMessage(): void {
    const envelope = transaction.envelope();
    if (Buffer.isBuffer(envelope)) return say(envelope);
    phase = 'opening';
    steps.push({ type: 'open', envelope });
  }

  function opened(): void {
    phase = 'message';
    message = createDataReader();
    refusal = undefined;
    say(ANSWERS.goAhead);
  }

  function takeText(): void {
    const { text, consumed, ended } = message.read(input);
    input = input.subarray(consumed);
    if (ended) phase = 'end-of-message';
    if (refusal !== undefined) {
      steps.push({ type: 'skip' });
      return;
    }
    if (sizeLimit > 0 && message.size() > sizeLimit) refusal = ANSWERS.tooLarge;
    else if (message.isFaulty()) refusal = ANSWERS.notText;
    if (refusal !== undefined) steps.push({ type: 'discard' });
    else if (text.length > 0) steps.push({ type: 'write', bytes: text });
  }

  function takeEnd(): void {
    if (refusal !== undefined) return settle(refusal);
    phase = 'storing';
    steps.push({ type: 'store' });
  }

  function failed(): void {
    if (phase === 'opening' || phase === 'storing') settle(ANSWERS.cannotStore);
    else refusal = ANSWERS.cannotStore;
  }

  /** Answers a message, or the wish to send one, and ends the transaction. */
  function settle(reply: Buffer): void {
    phase = 'commands';
    transaction.reset();
    say(reply);
  }

  // ---- the machine ---------------------------------------------------------------------------------

  /** Consumes a line, a piece of a message, or an end; returns false when there is nothing to consume. */
  function advance(): boolean {
    if (phase === 'end-of-message') takeEnd();
    else if (phase !== 'commands' && phase !== 'message') return false;
    else if (input.length === 0 && !clientGone) return false;
    else if (input.length === 0) close(phase === 'message' ? 'cut' : 'ended');
    else if (phase === 'message') takeText();
    else takeLine();
    return true;
  }

  /** Gives the line reader one line and no more, because what is behind it may be a message. */
  function takeLine(): void {
    const end = input.indexOf(LF) + 1 || input.length;
    // Of a line that is too long, no more than shows that it is: to copy all of it takes memory.
    lines.push(input.subarray(Math.max(0, end - COMMAND_LIMIT - 1), end));
    input = input.subarray(end);
    const line = lines.peek();
    if (line === undefined) return;
    lines.drop();
    takeCommand(line);
  }

  function close(cause: 'quit' | 'ended' | 'cut', reply?: Buffer): void {
    if (phase === 'closed') return;
    phase = 'closed';
    steps.push({ type: 'discard' });
    if (reply !== undefined) steps.push({ type: 'reply', bytes: reply });
    steps.push({ type: 'close', cause });
  }

  return {
    fromClient: (bytes) => {
      const first = input.length === 0;
      if (room.length < bytes.length) room = Buffer.allocUnsafeSlow(bytes.length);
      if (first) room.set(bytes);
      input = first ? room.subarray(0, bytes.length) : Buffer.concat([input, bytes]);
    },
    clientEnded: () => {
      clientGone = true;
    },
    opened,
    stored: () => settle(ANSWERS.stored),
    failed,
    timedOut: () => close('cut', REPLIES.tooSlow),
    terminated: () => close('cut', REPLIES.shuttingDown),
    next: () => {
      while (steps.length === 0 && advance());
      return steps.shift();
    },
  };
}
