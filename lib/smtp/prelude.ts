/**
 * The prelude: the server's part of a session until an smtpd is needed. It answers from the introduction of an smtpd,
 * which was learned in another session, and ends at the first command that it cannot answer.
 *
 * In cleartext its client is the dialogue; in TLS it is the client itself. So it treats invalid lines and refused
 * commands as the dialogue does.
 *
 *   command            what is sent                          afterwards
 *   -----------------  ------------------------------------  -----------------------------
 *   EHLO, HELO         the reply of the introduction         `hello` is this command
 *   LHLO               (not consumed)                        step `smtpd-needed`
 *   NOOP, RSET         250 2.0.0
 *   QUIT               221 2.0.0                             step `end`
 *   STARTTLS           503 5.5.1, counts as refused
 *   RCPT, DATA         503 5.5.1, counts as refused
 *   BDAT               503 5.5.1, counts as refused, its chunk is discarded
 *   an HTTP method     421 4.7.0, notice                     step `end`
 *   an empty line      500 5.5.2, counts as refused
 *   an invalid line    500 5.5.2, counts as refused (too long, bare CR, NUL)
 *   any other          (not consumed)                        step `smtpd-needed`
 *   the last refused   its reply, notice, 421 4.7.0          step `end`
 *
 * MAIL, AUTH and VRFY, for example, are among the others. After `smtpd-needed`, either the session continues with smtpd,
 * from `takeRest` on, or the caller refuses the command with `refuse`.
 *
 * It does no I/O and has no timers.
 */

import { type Command, type CommandKind, chunkSize, parseCommand } from './command.ts';
import { createLineReader, type Line } from './line.ts';
import { REPLIES } from './reply.ts';
import { formatReply, type Reply } from './reply-reader.ts';

/** How an smtpd introduces itself: its greeting, and its replies to EHLO and to HELO. */
export interface Introduction {
  readonly greeting: Reply;
  readonly ehlo: Reply;
  readonly helo: Reply;
}

/** What the driver of a prelude is to do next. */
export type PreludeStep =
  | { readonly type: 'to-client'; readonly bytes: Buffer }
  /** A command needs smtpd. `hello` is the client's last EHLO or HELO line without line ending, if any. */
  | { readonly type: 'smtpd-needed'; readonly hello: string | undefined }
  | PreludeNotice
  /** The session has ended; nothing more is to be sent. */
  | { readonly type: 'end' };

/** Something to report. Any client can cause it. */
export interface PreludeNotice {
  readonly type: 'notice';
  readonly text: string;
  readonly about: 'http' | 'error-limit';
}

/** The prelude of one session. */
export interface Prelude {
  /** Takes bytes from the client. They are copied. */
  fromClient(bytes: Uint8Array): void;
  /** The client will send no more. */
  clientEnded(): void;
  /** The idle timeout has passed: the client gets a 421, then the session ends. */
  timedOut(): void;
  /** The next step; undefined when there is none until more input arrives, and after `smtpd-needed`. */
  next(): PreludeStep | undefined;
  /** Consumes the command that needs smtpd, and answers it with this reply; the prelude goes on. */
  refuse(reply: Buffer): void;
  /**
   * Consumes and returns all that was read and not consumed. Valid after `smtpd-needed`: it begins with the command
   * that needs smtpd. `fromClient` may be called before, and then this has those bytes too.
   */
  takeRest(): Buffer;
  /** Consumes the command that needs smtpd without an answer. Only `takeRest` may follow. */
  drop(): void;
}

/** The settings of a prelude. */
export interface PreludeOptions {
  readonly introduction: Introduction;
  /** The last EHLO or HELO line of the client before this prelude, without line ending; undefined if none. */
  readonly hello: string | undefined;
  /** The session ends with this many refused commands; at least 1. */
  readonly errorLimit: number;
  /** Called with each EHLO or HELO line that is answered, without line ending. */
  introduced(line: string): void;
}

/**
 * Creates a prelude. It begins with the greeting.
 *
 * Memory: what was read and not consumed, and the replies to it that were not taken with `next`: one line of input at
 * a time is answered.
 */
export function createPrelude(options: PreludeOptions): Prelude {
  const { introduction, errorLimit } = options;
  const client = createLineReader();
  const steps: PreludeStep[] = [];
  let lastHello = options.hello;
  let refused = 0;
  let state: 'open' | 'smtpd-needed' | 'ended' = 'open';
  let clientHasEnded = false;
  /** `takeRest` leaves out the first line. */
  let isDropped = false;

  const commands: Readonly<Record<CommandKind, (command: Command, line: Line) => void>> = {
    // LHLO is of this kind too, and an smtpd that introduces itself to EHLO need not know it.
    hello: ({ verb }, line) => (verb === 'EHLO' ? answerHello(line, introduction.ehlo) : needSmtpd()),
    helo: (_, line) => answerHello(line, introduction.helo),
    starttls: () => answer(REPLIES.noSecondTls),
    mail: needSmtpd,
    auth: needSmtpd,
    early: () => answer(REPLIES.mailFirst),
    chunk: ({ argument }) => {
      // The client sends the octets of the chunk whatever the reply (RFC 3030 section 2). They are not commands.
      client.skip(chunkSize(argument));
      countRefusal(REPLIES.mailFirst);
    },
    foreign: () => {
      steps.push({ type: 'notice', text: 'the client sent an HTTP request, closing', about: 'http' });
      close(REPLIES.notHttp);
    },
    empty: () => answer(REPLIES.noCommand),
    other: ({ verb }) => {
      const reply = ANSWERS.get(verb);
      if (reply === undefined) return needSmtpd();
      client.drop();
      toClient(reply());
      if (verb === 'QUIT') end();
    },
  };

  function answerHello(line: Line, reply: Reply): void {
    lastHello = line.text.toString('latin1');
    options.introduced(lastHello);
    client.drop();
    toClient(formatOnce(reply));
  }

  function needSmtpd(): void {
    state = 'smtpd-needed';
    steps.push({ type: 'smtpd-needed', hello: lastHello });
  }

  function answer(reply: Buffer): void {
    client.drop();
    countRefusal(reply);
  }

  function countRefusal(reply: Buffer): void {
    toClient(reply);
    refused += 1;
    if (refused < errorLimit) return;
    steps.push({ type: 'notice', text: 'too many commands were refused, closing', about: 'error-limit' });
    close(REPLIES.tooManyErrors);
  }

  function toClient(bytes: Buffer): void {
    steps.push({ type: 'to-client', bytes });
  }

  function close(reply: Buffer): void {
    toClient(reply);
    end();
  }

  function end(): void {
    state = 'ended';
    steps.push({ type: 'end' });
  }

  /** Consumes one line or the end of input; returns false when there is nothing to consume. */
  function advance(): boolean {
    if (state !== 'open') return false;
    const line = client.peek();
    if (line !== undefined) handleLine(line);
    else if (clientHasEnded) end();
    else return false;
    return true;
  }

  function handleLine(line: Line): void {
    if (line.fault === 'too-long') return answer(REPLIES.tooLong);
    if (line.fault === 'control') return answer(REPLIES.controls);
    const command = parseCommand(line.text);
    commands[command.kind](command, line);
  }

  toClient(formatOnce(introduction.greeting));
  return {
    fromClient: client.push,
    clientEnded: () => {
      clientHasEnded = true;
    },
    timedOut: () => {
      if (state === 'open') close(REPLIES.tooSlow);
    },
    next: () => {
      while (steps.length === 0 && advance());
      return steps.shift();
    },
    refuse: (reply) => {
      state = 'open';
      answer(reply);
    },
    drop: () => {
      isDropped = true;
    },
    takeRest: () => {
      const all = client.rest();
      // The line reader would discard the beginning of a long line behind the command.
      const rest = isDropped ? all.subarray(all.indexOf(LF) + 1) : all;
      client.clear();
      return rest;
    },
  };
}

/** The replies of introductions, each of which serves thousands of sessions. */
const formatted = new WeakMap<Reply, Buffer>();

function formatOnce(reply: Reply): Buffer {
  const known = formatted.get(reply);
  if (known !== undefined) return known;
  const bytes = formatReply(reply);
  formatted.set(reply, bytes);
  return bytes;
}

const LF = 0x0a;

/** Commands that are answered the same way whatever smtpd would reply. */
const ANSWERS: ReadonlyMap<string, () => Buffer> = new Map([
  ['NOOP', () => REPLIES.ok],
  ['RSET', () => REPLIES.ok],
  ['QUIT', () => REPLIES.bye],
]);
