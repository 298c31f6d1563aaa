/**
 * The envelope: follows a session between a client and an smtpd, command by command and reply by reply, and lets its
 * user decide what happens to each command. Messages pass unchanged.
 *
 *   the client sends      it is                               afterwards the client's bytes are
 *   --------------------  ----------------------------------  ------------------------------------------------
 *   a command             what `decide` returns               commands
 *   DATA, passed          held until the reply to it          after 354 a message, until CRLF.CRLF; else commands
 *   a message             passed; see `strictNewlines`        commands
 *   BDAT n, passed        passed with its n octets            commands
 *   BDAT n, answered      its n octets are discarded          commands
 *   BDAT, not offered     502 5.5.1 in place of passing       as after BDAT that is answered
 *   malformed BDAT        501 5.5.4 in place of passing       as after BDAT that is answered
 *   AUTH, passed          held until the reply to it          after 334 one line of AUTH; else commands
 *   a line of AUTH        passed; "*" in place of an invalid  as after AUTH
 *   an invalid line       500 5.5.2 (too long, CR, NUL)       commands
 *
 * Replies of smtpd pass in order; those that answer a command in place of smtpd are in order too. In LMTP a message has a
 * reply for each recipient that was accepted (RFC 2033 section 4.2). A session is LMTP from an accepted LHLO on.
 *
 * With `awaitsGreeting` the first reply is the greeting, also for a client that sends commands before it. BDAT passes only
 * to an smtpd that has offered CHUNKING then (RFC 3030 section 2): for others the octets of a chunk are commands. It waits
 * for the reply to a hello before it, which may change that.
 *
 * The client must take each reply for that to the same command as this machine, or it would send a message where this
 * machine reads commands. So a reply that nothing asked for is invalid (a refusal passes, and is the end), and a reply to
 * DATA that neither is 354 nor refuses it: some clients send the message after any 2xx or 3xx. So is 354 to any other.
 *
 * Commands may end with a bare LF; they are passed on with CRLF. In a message only CRLF ends a line: an smtpd that takes
 * bare LF or CR for the end of a line may see the end of a message, and commands behind it, where there is none for this
 * machine ("SMTP smuggling", CVE-2023-51764). With `strictNewlines`, smtpd does not get such a message: what it has of it
 * stays without an end, the client gets 550 in place of each reply to the message, and the session ends.
 *
 * It does no I/O and has no timers.
 */

import { createBorrowedInput } from './borrowed-input.ts';
import { type Command, chunkSize, isChunkCommand, isLastChunk, parseCommand } from './command.ts';
import type { Answer, Decide } from './decision.ts';
import {
  createMessageEnd,
  createNewlineFilter,
  type MessageEnd,
  type NewlineFilter,
} from './end-of-message.ts';
import { createLineReader, type Line } from './line.ts';
import { extensionKeyword, REPLIES } from './reply.ts';
import { createReplyQueue, type ExpectedReply, type QueuedReply } from './reply-queue.ts';

/** What the driver is to do next. */
export type EnvelopeStep =
  | QueuedReply
  | { readonly type: 'to-smtpd'; readonly bytes: Uint8Array }
  /** The client will send no more. */
  | { readonly type: 'end-smtpd' }
  /** The client has got a reply with `end`. Nothing follows. */
  | { readonly type: 'end' };

/** The user of an envelope. */
export interface EnvelopeOptions {
  /** Of smtpd, until it has accepted another hello; SMTP by default. */
  readonly protocol?: 'smtp' | 'lmtp';
  /** The greeting of smtpd is still to come. */
  readonly awaitsGreeting?: boolean;
  /** Refuse messages of DATA with a bare CR or LF. Those of BDAT need no line endings to end. */
  readonly strictNewlines?: boolean;
  readonly decide: Decide;
  /** What an invalid line is answered in place of `reply`; by default, with `reply`. */
  answerInvalid?(reply: Buffer): Answer;
  /** A message has got its reply, or in LMTP its last one: the transaction has ended. */
  messageReplied?(): void;
  /** A message was refused because of `strictNewlines`. */
  messageRefused?(): void;
}

/** The envelope of one session. */
export interface Envelope {
  /** Takes bytes from the client. They must not change until `next` has returned undefined. */
  fromClient(bytes: Uint8Array): void;
  /** Takes bytes from smtpd. They are copied. */
  fromSmtpd(bytes: Uint8Array): void;
  /** The client will send no more. */
  clientEnded(): void;
  /** After `hold`: the same command is decided on again. */
  resume(): void;
  /** The next step; undefined when there is none until more input arrives. */
  next(): EnvelopeStep | undefined;
  /** Whether the client should be read. Valid once `next` has returned undefined. */
  wantsClient(): boolean;
  /**
   * Whether the client may be read although it is not wanted: nothing will be consumed, but its end passed on at once. An
   * smtpd that does not reply would not learn of it. Valid as `wantsClient` is.
   */
  readsAhead(): boolean;
  /** Whether a reply of smtpd is outstanding, or the client sends a message. */
  isBusy(): boolean;
}

/** What the client's bytes are. */
type Reading =
  | { readonly as: 'command' }
  | { readonly as: 'auth'; replied(code: number): void }
  | Message
  | { readonly as: 'chunk'; readonly left: number; readonly isPassed: boolean }
  /** They wait. */
  | { readonly as: 'held'; readonly until: 'reply' | 'quiet' | 'resume' }
  /** They do not matter. `end` is due once the client has all replies. */
  | { readonly as: 'nothing'; readonly isEndDue: boolean };

interface Message {
  readonly as: 'message';
  readonly end: MessageEnd;
  /** Undefined if all of it passes. */
  readonly filter: NewlineFilter | undefined;
}

/** The client is not read while it awaits this many replies. */
const AWAITED_LIMIT = 1000;

const COMMAND: Reading = { as: 'command' };
const OVER: Reading = { as: 'nothing', isEndDue: false };
const STARTS_MESSAGE = 354;
const CONTINUES_AUTH = 334;

/**
 * Creates an envelope. The client may be read at once.
 *
 * Memory: one line of each side, the replies that the client awaits, and what the client sends in one piece.
 */
export function createEnvelope(options: EnvelopeOptions): Envelope {
  const { decide, messageReplied, strictNewlines, awaitsGreeting = false } = options;
  const line = createLineReader();
  const replies = createReplyQueue();
  const steps: EnvelopeStep[] = [];
  /** What the client has sent and was not consumed. */
  const input = createBorrowedInput();
  let reading = COMMAND;
  /** How many recipients were accepted in this transaction. */
  let recipients = 0;
  let isLmtp = options.protocol === 'lmtp';
  let clientInput: 'open' | 'ended' | 'forwarded' = 'open';
  /** smtpd has a message that will not end. */
  let isCut = false;
  /** Whether smtpd takes BDAT. With `awaitsGreeting`, its last reply to EHLO decides. */
  let offersChunks = !awaitsGreeting;
  /** How many replies to EHLO, HELO or LHLO are outstanding, each of which may change that. */
  let hellos = 0;

  if (awaitsGreeting) expectReply(IGNORE);

  /** Consumes input; returns whether it has done anything. */
  function read(): boolean {
    switch (reading.as) {
      case 'command':
        return readLine(handleCommandLine);
      case 'auth':
        return readLine(handleAuthLine);
      case 'message':
        return readMessage(reading);
      case 'chunk': {
        if (input.size() === 0) return endClient();
        const bytes = input.take(reading.left);
        if (reading.isPassed) steps.push({ type: 'to-smtpd', bytes });
        reading = readChunk(reading.left - bytes.length, reading.isPassed);
        return true;
      }
      case 'held':
        if (reading.until !== 'quiet' || replies.isExpecting()) return readsAhead() && endClient();
        reading = COMMAND;
        return true;
      case 'nothing':
        if (!reading.isEndDue || replies.size() > 0) return false;
        reading = OVER;
        steps.push({ type: 'end' });
        return true;
    }
  }

  /** A command was passed whose reply decides what follows, and nothing has followed yet. */
  function readsAhead(): boolean {
    return (
      reading.as === 'held' && reading.until === 'reply' && input.size() === 0 && line.peek() === undefined
    );
  }

  function readLine(handle: (line: Line) => void): boolean {
    // Line by line: the reader would take a message behind DATA for lines, too.
    if (input.size() > 0 && line.peek() === undefined) line.push(input.takeLine());
    const next = line.peek();
    if (next === undefined) return endClient();
    handle(next);
    return true;
  }

  function readMessage({ end, filter }: Message): boolean {
    if (input.size() === 0) return endClient();
    const length = end.find(input.view());
    const bytes = input.take(length ?? input.size());
    passBytes(filter?.pass(bytes) ?? bytes);
    isCut = filter?.isClosed() === true;
    if (length === undefined) return true;
    reading = COMMAND;
    if (isCut) refuseMessage();
    return true;
  }

  /** smtpd may have replied early. */
  function refuseMessage(): void {
    for (let count = replies.withdraw(); count > 0; count--) replies.answer(REPLIES.bareNewline);
    options.messageRefused?.();
    reading = { as: 'nothing', isEndDue: true };
  }

  /** All that the client has sent is consumed, but for a part of a line. */
  function endClient(): boolean {
    if (clientInput !== 'ended') return false;
    clientInput = 'forwarded';
    steps.push({ type: 'end-smtpd' });
    return true;
  }

  // ---- commands -------------------------------------------------------------------------------------

  function handleCommandLine({ text, fault }: Line): void {
    if (fault !== undefined) {
      const reply = fault === 'too-long' ? REPLIES.tooLong : REPLIES.controls;
      const decision = options.answerInvalid?.(reply) ?? { type: 'answer', reply };
      answer(decision.reply);
      return endAfter(decision);
    }
    const command = parseCommand(text);
    if (command.kind === 'chunk' && awaitsGreeting && hellos > 0) {
      reading = { as: 'held', until: 'quiet' };
      return;
    }
    // Not after `decide`, which would wait for a reply of smtpd.
    if (command.kind === 'chunk' && !offersChunks) return answerTo(command, REPLIES.notAvailable);
    const decision = decide(command, text, !replies.isExpecting());
    switch (decision.type) {
      case 'pass': {
        const passed = decision.line ?? text.toString('latin1');
        if (command.kind === 'chunk' && !isChunkCommand(passed)) return answerTo(command, REPLIES.badChunk);
        pass(passed);
        line.drop();
        return expectReplyTo(command, decision.replied ?? IGNORE, decision.prefix ?? NOTHING);
      }
      case 'answer':
        answerTo(command, decision.reply);
        return endAfter(decision);
      case 'precede':
        pass(decision.line);
        reading = { as: 'held', until: 'reply' };
        return replies.expect({
          isPassed: false,
          ended: (reply) => {
            reading = COMMAND;
            decision.replied(reply);
          },
        });
      case 'after-replies':
        reading = { as: 'held', until: 'quiet' };
        return;
      case 'hold':
        reading = { as: 'held', until: 'resume' };
    }
  }

  function endAfter({ end }: Answer): void {
    if (end === true) reading = { as: 'nothing', isEndDue: true };
  }

  function answerTo({ kind, argument }: Command, reply: Buffer): void {
    answer(reply);
    if (kind === 'chunk') reading = readChunk(chunkSize(argument), false);
  }

  function answer(reply: Buffer): void {
    line.drop();
    replies.answer(reply);
  }

  function pass(text: string): void {
    passBytes(Buffer.from(`${text}\r\n`, 'latin1'));
  }

  function passBytes(bytes: Uint8Array): void {
    if (bytes.length > 0) steps.push({ type: 'to-smtpd', bytes });
  }

  function expectReplyTo(
    { verb, argument, kind }: Command,
    replied: (code: number) => void,
    prefix: Uint8Array,
  ): void {
    if (kind === 'chunk') {
      passBytes(prefix);
      reading = readChunk(chunkSize(argument), true);
      if (isLastChunk(argument)) return expectMessageReply(replied);
    }
    if (verb === 'DATA' || verb === 'AUTH') reading = { as: 'held', until: 'reply' };
    if (verb === 'AUTH') return expectReply((code) => continueAuth(code, replied));
    if (kind === 'hello' || kind === 'helo') return expectReplyToHello(verb, replied);
    const answered = (code: number): void => {
      if (verb === 'DATA') startMessage(code, prefix);
      if (verb === 'RCPT' && code < 300) recipients += 1;
      if (ENDS_TRANSACTION.has(verb) && code < 300) recipients = 0;
      replied(code);
    };
    expectReply(answered, { accepts: verb === 'DATA' ? isReplyToData : isOther });
  }

  function expectReplyToHello(verb: string, replied: (code: number) => void): void {
    let hasChunking = false;
    hellos += 1;
    const line = (text: string): void => {
      hasChunking ||= extensionKeyword(text) === 'CHUNKING';
    };
    const ended = (code: number): void => {
      hellos -= 1;
      if (code < 300) {
        recipients = 0;
        isLmtp = verb === 'LHLO';
        if (awaitsGreeting) offersChunks = hasChunking;
      }
      replied(code);
    };
    expectReply(ended, { line });
  }

  function expectReply(
    replied: (code: number) => void,
    more: Partial<Pick<ExpectedReply, 'accepts' | 'line'>> = {},
  ): void {
    replies.expect({ isPassed: true, accepts: isOther, ...more, ended: ({ code }) => replied(code) });
  }

  function startMessage(code: number, prefix: Uint8Array): void {
    reading = COMMAND;
    if (code !== STARTS_MESSAGE) return;
    passBytes(prefix);
    const filter = strictNewlines === true ? createNewlineFilter() : undefined;
    reading = { as: 'message', end: createMessageEnd(), filter };
    // Expected from now on: an smtpd may refuse a message before its end.
    expectMessageReply(IGNORE);
  }

  function expectMessageReply(replied: (code: number) => void): void {
    replies.expect({
      isPassed: true,
      accepts: isOther,
      count: () => (isLmtp ? Math.max(recipients, 1) : 1),
      ended: ({ code }) => {
        recipients = 0;
        replied(code);
        messageReplied?.();
      },
    });
  }

  function handleAuthLine({ text, fault }: Line): void {
    const { replied } = reading.as === 'auth' ? reading : { replied: IGNORE };
    // smtpd refuses AUTH that is cancelled (RFC 4954 section 4).
    pass(fault === undefined ? text.toString('latin1') : '*');
    line.drop();
    reading = { as: 'held', until: 'reply' };
    expectReply((code) => continueAuth(code, replied));
  }

  function continueAuth(code: number, replied: (code: number) => void): void {
    const isContinued = code === CONTINUES_AUTH;
    reading = isContinued ? { as: 'auth', replied } : COMMAND;
    if (!isContinued) replied(code);
  }

  // ---- the machine ----------------------------------------------------------------------------------

  /** Does one thing; returns whether there was anything to do. */
  function advance(): boolean {
    const reply = replies.next();
    if (reply === undefined) return replies.size() < AWAITED_LIMIT && read();
    if (reply.type !== 'to-client') reading = OVER;
    steps.push(reply);
    return true;
  }

  return {
    fromClient: input.push,
    fromSmtpd: replies.fromSmtpd,
    clientEnded: () => {
      clientInput = 'ended';
    },
    resume: () => {
      if (reading.as === 'held') reading = COMMAND;
    },
    next: () => {
      while (steps.length === 0 && advance());
      const step = steps.shift();
      if (step === undefined) input.keep();
      return step;
    },
    wantsClient: () => reading.as !== 'held' && reading.as !== 'nothing' && replies.size() < AWAITED_LIMIT,
    readsAhead,
    isBusy: () => replies.isExpecting() || reading.as === 'message' || reading.as === 'chunk' || isCut,
  };
}

const isOther = (code: number): boolean => code !== STARTS_MESSAGE;
const isReplyToData = (code: number): boolean => code === STARTS_MESSAGE || code >= 400;

const IGNORE = (): void => {};
const NOTHING: Uint8Array = Buffer.alloc(0);

/** A reply that accepts one of these, or a hello, ends a transaction (RFC 5321 sections 4.1.1.5 and 4.1.4, RFC 2033). */
const ENDS_TRANSACTION: ReadonlySet<string> = new Set(['MAIL', 'RSET']);

function readChunk(left: number, isPassed: boolean): Reading {
  return left === 0 ? COMMAND : { as: 'chunk', left, isPassed };
}
