/**
 * The receiver: a small SMTP server (RFC 5321), from its greeting to the end of the connection.
 *
 * RULES. Everything that decides which reply is sent, and when, is in this file; transaction.ts and data.ts
 * implement parts of it. It does no I/O and has no clock: bytes go in, steps come out, and the driver
 * (receive.ts) performs them in order.
 *
 * THEORY OF OPERATION
 *
 * The receiver consumes one unit of input at a time: a command line, or the part of a message that has arrived.
 * It consumes the next one when the driver has performed all steps of the one before. So replies are in the
 * order of the commands, however the client pipelines (RFC 2920); replies need no memory, because a driver
 * takes no steps while the client does not read; and no octet of a message is ever parsed as a command.
 *
 * Memory holds one read of input, one line, and the envelope with at most 100 recipients. Messages are passed
 * on in pieces.
 *
 * A message that will be refused is read to its end, because the client does not read a reply before.
 */

import { parseCommand } from '../../smtp/command.ts';
import { createLineReader, type Line } from '../../smtp/line.ts';
import { REPLIES } from '../../smtp/reply.ts';
import { createDataReader, type DataReader } from './data.ts';
import { ehloReply, encodeReply, RECEIVER_REPLIES } from './replies.ts';
import { createTransaction, type Envelope } from './transaction.ts';

/** The maximum length of a command line, in octets with its CRLF; RFC 5321 section 4.5.3.1.4 requires 512. */
const COMMAND_LIMIT = 2048;

/** How many commands may get a permanent error (5xx). The connection is closed at the next one. */
export const ERROR_LIMIT = 20;

/**
 * Why a connection is closed: the client sent QUIT; it half-closed while no message was in progress; or
 * anything else.
 */
export type CloseReason = 'quit' | 'client-ended' | 'aborted';

/** What the driver has to do next. */
export type ReceiverStep =
  | { readonly type: 'reply'; readonly bytes: Buffer }
  /** Start a delivery. The driver then calls `opened` or `failed`. */
  | { readonly type: 'open'; readonly envelope: Envelope }
  /** Append to the message. The bytes are valid until the next call. The driver calls `failed` on failure. */
  | { readonly type: 'write'; readonly bytes: Buffer }
  /** Nothing. Part of a message that will be refused was consumed, so the client is not idle. */
  | { readonly type: 'skip' }
  /** The message is complete: store it durably. The driver then calls `stored` or `failed`. */
  | { readonly type: 'store' }
  /** Remove what has been written of the message, if there is one. */
  | { readonly type: 'discard' }
  /** Close the connection. This is the last step. */
  | { readonly type: 'close'; readonly reason: CloseReason };

/** The settings of a receiver. */
export interface ReceiverOptions {
  /** The name of this host. */
  readonly host: string;
  /** The maximum size of a message in octets, counted as in RFC 1870; 0 for no limit. */
  readonly sizeLimit: number;
}

/** An SMTP server for one client. */
export interface Receiver {
  /** Adds input of the client. The bytes are copied. */
  fromClient(bytes: Uint8Array): void;
  /** The client has half-closed. It may still read. */
  clientEnded(): void;
  /** The delivery has started. */
  opened(): void;
  /** The message is stored. */
  stored(): void;
  /** The last step failed, and nothing is left of the message. */
  failed(): void;
  /** The idle timeout has expired. The client gets a 421. */
  timedOut(): void;
  /** The server is stopping. The client gets a 421. */
  stopping(): void;
  /** The next step; undefined when more input is needed. */
  next(): ReceiverStep | undefined;
}

type Phase = 'commands' | 'opening' | 'message' | 'end-of-message' | 'storing' | 'closed';

/** Commands of RFC 5321 and its extensions that this server does not implement: 502 instead of 500. */
const NOT_IMPLEMENTED = new Set(['AUTH', 'BDAT', 'ETRN', 'EXPN', 'LHLO', 'STARTTLS', 'TURN']);

const LF = 0x0a;
const FIVE = 0x35;
const EMPTY: Buffer = Buffer.alloc(0);

/** Creates a receiver. Its first step is the greeting. */
export function createReceiver({ host, sizeLimit }: ReceiverOptions): Receiver {
  const lines = createLineReader(COMMAND_LIMIT);
  const transaction = createTransaction(sizeLimit);
  const steps: ReceiverStep[] = [{ type: 'reply', bytes: encodeReply(`220 ${host} ESMTP`) }];
  /** Holds the input, and is reused: with a new buffer for each read, 50 MB await the garbage collector. */
  let buffer = EMPTY;
  let input = EMPTY;
  let phase: Phase = 'commands';
  let message: DataReader = createDataReader();
  /** The reply that refuses the message in progress; undefined while it is acceptable. */
  let refusal: Buffer | undefined;
  let errors = 0;
  let hasClientEnded = false;

  // ---- commands ------------------------------------------------------------------------------------

  const commands: ReadonlyMap<string, (argument: string) => void> = new Map([
    ['EHLO', (name: string) => greet(name, true)],
    ['HELO', (name: string) => greet(name, false)],
    ['MAIL', (argument: string) => reply(transaction.mail(argument))],
    ['RCPT', (argument: string) => reply(transaction.rcpt(argument))],
    ['DATA', withoutArgument(openMessage)],
    ['RSET', withoutArgument(reset)],
    ['QUIT', withoutArgument(() => close('quit', RECEIVER_REPLIES.goodbye))],
    ['NOOP', () => reply(RECEIVER_REPLIES.ok)],
    ['HELP', () => reply(RECEIVER_REPLIES.help)],
    [
      'VRFY',
      (argument: string) =>
        reply(argument === '' ? RECEIVER_REPLIES.argumentMissing : RECEIVER_REPLIES.cannotVerify),
    ],
    ['', () => reply(REPLIES.noCommand)],
  ]);

  function handleCommand(line: Line): void {
    if (line.fault === 'too-long') return reply(REPLIES.tooLong);
    if (line.fault === 'control') return reply(REPLIES.controls);
    const text = line.text.toString('latin1').trim();
    const verb = (/^\S*/.exec(text)?.[0] ?? '').toUpperCase();
    const command = commands.get(verb);
    if (command !== undefined) return command(text.slice(verb.length).trim());
    // A cross-protocol attack: a browser was made to send SMTP commands in the body of an HTTP request.
    if (parseCommand(line.text).kind === 'foreign') return close('aborted', REPLIES.notHttp);
    reply(NOT_IMPLEMENTED.has(verb) ? RECEIVER_REPLIES.notImplemented : RECEIVER_REPLIES.unknownCommand);
  }

  function withoutArgument(command: () => void): (argument: string) => void {
    return (argument) => (argument === '' ? command() : reply(RECEIVER_REPLIES.argumentNotAllowed));
  }

  function greet(name: string, extended: boolean): void {
    if (name === '') return reply(RECEIVER_REPLIES.hostNameMissing);
    transaction.greet(name, extended);
    reply(extended ? ehloReply(host, sizeLimit) : encodeReply(`250 ${host}`));
  }

  function reset(): void {
    transaction.reset();
    reply(RECEIVER_REPLIES.ok);
  }

  /** Replies to a command. A client with too many errors is disconnected. */
  function reply(bytes: Buffer): void {
    if (bytes[0] === FIVE) errors += 1;
    if (errors > ERROR_LIMIT) close('aborted', RECEIVER_REPLIES.tooManyErrors);
    else steps.push({ type: 'reply', bytes });
  }

  // ---- messages ------------------------------------------------------------------------------------

  function openMessage(): void {
    const envelope = transaction.envelope();
    if (Buffer.isBuffer(envelope)) return reply(envelope);
    phase = 'opening';
    steps.push({ type: 'open', envelope });
  }

  function opened(): void {
    phase = 'message';
    message = createDataReader();
    refusal = undefined;
    reply(RECEIVER_REPLIES.startData);
  }

  function readText(): void {
    const { text, consumed, ended } = message.read(input);
    input = input.subarray(consumed);
    if (ended) phase = 'end-of-message';
    if (refusal !== undefined) {
      steps.push({ type: 'skip' });
      return;
    }
    if (sizeLimit > 0 && message.size() > sizeLimit) refusal = RECEIVER_REPLIES.tooLarge;
    else if (message.isInvalid()) refusal = RECEIVER_REPLIES.invalidText;
    if (refusal !== undefined) steps.push({ type: 'discard' });
    else if (text.length > 0) steps.push({ type: 'write', bytes: text });
  }

  function finishMessage(): void {
    if (refusal !== undefined) return endTransaction(refusal);
    phase = 'storing';
    steps.push({ type: 'store' });
  }

  function failed(): void {
    if (phase === 'opening' || phase === 'storing') endTransaction(RECEIVER_REPLIES.cannotStore);
    else refusal = RECEIVER_REPLIES.cannotStore;
  }

  /** Sends the reply to DATA or to the end of a message. */
  function endTransaction(bytes: Buffer): void {
    phase = 'commands';
    transaction.reset();
    reply(bytes);
  }

  // ---- input ---------------------------------------------------------------------------------------

  /** Consumes one unit of input; returns false when there is none or the driver has yet to report. */
  function advance(): boolean {
    if (phase === 'end-of-message') finishMessage();
    else if (phase !== 'commands' && phase !== 'message') return false;
    else if (input.length === 0 && !hasClientEnded) return false;
    else if (input.length === 0) close(phase === 'message' ? 'aborted' : 'client-ended');
    else if (phase === 'message') readText();
    else readLine();
    return true;
  }

  /** Passes one line to the line reader and no more, because what follows may be a message. */
  function readLine(): void {
    const end = input.indexOf(LF) + 1 || input.length;
    // Of an overlong line only as much as shows that it is too long: to copy all of it takes memory.
    lines.push(input.subarray(Math.max(0, end - COMMAND_LIMIT - 1), end));
    input = input.subarray(end);
    const line = lines.peek();
    if (line === undefined) return;
    lines.drop();
    handleCommand(line);
  }

  function close(reason: CloseReason, bytes?: Buffer): void {
    if (phase === 'closed') return;
    phase = 'closed';
    steps.push({ type: 'discard' });
    if (bytes !== undefined) steps.push({ type: 'reply', bytes });
    steps.push({ type: 'close', reason });
  }

  return {
    fromClient: (bytes) => {
      const isFirst = input.length === 0;
      if (buffer.length < bytes.length) buffer = Buffer.allocUnsafeSlow(bytes.length);
      if (isFirst) buffer.set(bytes);
      input = isFirst ? buffer.subarray(0, bytes.length) : Buffer.concat([input, bytes]);
    },
    clientEnded: () => {
      hasClientEnded = true;
    },
    opened,
    stored: () => endTransaction(RECEIVER_REPLIES.stored),
    failed,
    timedOut: () => close('aborted', REPLIES.tooSlow),
    stopping: () => close('aborted', REPLIES.shuttingDown),
    next: () => {
      while (steps.length === 0 && advance());
      return steps.shift();
    },
  };
}
