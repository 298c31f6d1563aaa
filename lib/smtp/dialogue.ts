/**
 * The dialogue: the SMTP commands and replies that pass in cleartext between a client and an smtpd without
 * TLS, until the session is known to continue in TLS, to continue in cleartext, or to close.
 *
 * RULES. Everything that decides what either side receives is in this file and in ehlo-reply.ts. They do no I/O
 * and have no timers: bytes go in, steps come out, and the driver (converse.ts) carries the steps out in order.
 *
 * THEORY OF OPERATION
 *
 * The dialogue stands between two parties. The client sees an SMTP server that offers STARTTLS. smtpd sees a
 * client that never pipelines.
 *
 * Lock-step. In smtpd's turn (it awaits the greeting, the reply to a command, or the rest of an unsolicited
 * multiline reply), the dialogue processes no further command, and the driver does not read the client. This one
 * rule gives the order of replies (RFC 2920 section 3.2), the bound on memory (one read of input, one line of
 * output), and the safety of STARTTLS.
 *
 * STARTTLS is safe because nothing is read after it. When its line is processed, any bytes after it in the
 * same read were sent before the client had the reply: they are an injected command (CVE-2011-0411), or the
 * client does not wait as RFC 3207 section 4 requires. The command is refused and the bytes are discarded up
 * to the end of their line, so the client gets one reply to its one command. If nothing follows the command,
 * the client is not read while smtpd is reset, nor after the 220: whatever arrives later goes to the TLS
 * engine, which accepts no SMTP. Such bytes have no path to smtpd.
 *
 * The verdict. HELO and MAIL (and AUTH, where it is allowed in cleartext) show that the client will not
 * ask for TLS. They are not consumed: the verdict `plaintext` leaves the command and everything after it to
 * the relay, which begins with those bytes. Pipelining therefore costs nothing: what clients pipeline begins
 * with MAIL.
 *
 * Errors are bounded. An empty line of one octet costs the client nothing and the server a reply of fifty, so
 * after `errorLimit` commands refused by smtpd or by the dialogue, the client gets a 421 and the verdict is
 * `close`. All refused commands of the dialogue count, not only consecutive ones: otherwise an occasional NOOP
 * would reset the count.
 *
 * smtpd's replies are forwarded line by line as they arrive and are never collected, so a reply may have any
 * length. Only replies to EHLO are modified, also line by line (ehlo-reply.ts).
 *
 * THE TABLES
 *
 * The turn is the client's (no reply is outstanding), smtpd's (a reply is outstanding; which one is given after
 * the colon) or none (the verdict is given). The first turn is smtpd's: greeting.
 *
 * What a command does in the client's turn. In the other turns it waits. Where no other turn is given, the turn
 * stays with the client, and the command counts as refused. An indented row is a case of the row above it.
 *
 *   command            what is sent                          turn afterwards
 *   -----------------  ------------------------------------  -----------------------------
 *   EHLO, LHLO         forwarded                             smtpd's: hello
 *   HELO               (not consumed)                        none: verdict `plaintext`
 *     requireTls       forwarded                             smtpd's: command
 *   STARTTLS           RSET to smtpd                         smtpd's: reset
 *     with a parameter 501 5.5.4
 *     more input       503 5.5.1, the input is discarded
 *   MAIL               (not consumed)                        none: verdict `plaintext`
 *     requireTls       530 5.7.0
 *   AUTH               538 5.7.11
 *     plaintextAuth    (not consumed)                        none: verdict `plaintext`
 *   RCPT, DATA         503 5.5.1
 *   BDAT               503 5.5.1, its chunk is discarded
 *   an HTTP method     421 4.7.0, notice                     none: verdict `close`
 *   an empty line      500 5.5.2
 *   an invalid line    500 5.5.2 (too long, bare CR, NUL)
 *   any other          forwarded                             smtpd's: command
 *   the last refused   its reply, notice, 421 4.7.0          none: verdict `close`
 *
 * The last refused command is the one that reaches `errorLimit`. `plaintextAuth` has no effect with `requireTls`.
 *
 * What a line of a reply does. A line that is not the last leaves the turn with smtpd.
 *
 *   turn               each line                             the last line, then the turn
 *   -----------------  ------------------------------------  -----------------------------
 *   smtpd's: greeting  forwarded                             client's
 *   smtpd's: hello     forwarded; rewritten if 250           4xx and 5xx count as refused; client's
 *   smtpd's: command   forwarded                             4xx and 5xx count as refused; client's
 *   smtpd's: reset     not forwarded
 *     2xx                                                    220 2.0.0; none: verdict `tls`
 *     any other code                                         454 4.7.0, counts as refused; client's
 *   client's           forwarded; smtpd's: unsolicited       client's
 *   smtpd's: unsolicited
 *                      forwarded                             client's
 *   an invalid line    notice, 421 4.3.0; none: verdict `close`
 *
 * A line is invalid if it is not a reply line, or has another code than the line before it in the same reply.
 *
 * What the other events do. With the turn none they do nothing.
 *
 *   event              smtpd's turn                          client's turn
 *   -----------------  ------------------------------------  -----------------------------
 *   smtpd ends         notice, 421 4.3.0, verdict `close`    the same
 *     client ended     the same                              verdict `close`
 *     reason sent      the same                              verdict `close`
 *     shutting down    421 4.3.2, verdict `close`            the same, or as in the two rows above
 *   client ends        waits for the client's turn           smtpd's input is closed
 *   timeout or abort   421 4.4.2, verdict `close`            the same
 *     shutting down    421 4.3.2, verdict `close`            the same
 *     after 221        421 4.4.2, verdict `close`            verdict `close`
 *   shutdown           nothing; see "shutting down"          nothing
 *
 * The reason is sent if the last reply forwarded from smtpd was 221 or 421, or was 4xx or 5xx and no command of the
 * client is waiting.
 *
 * Pending input is processed in this order: smtpd's lines, smtpd's end, the client's lines, the client's end. A
 * timeout or an abort takes effect at once, before the input.
 */

import { type Command, type CommandKind, chunkSize, parseCommand } from './command.ts';
import { createEhloReplyRewriter } from './ehlo-reply.ts';
import { createLineReader, type Line } from './line.ts';
import { formatReplyLine, parseReplyLine, REPLIES, type ReplyLine } from './reply.ts';

/** How the dialogue ended. */
export type Verdict =
  /** Relay both sides raw, in cleartext, beginning with `rest`. */
  | 'plaintext'
  /** The 220 has been sent: start TLS with the client, then relay both sides raw. */
  | 'tls'
  /** Nothing more to send: close the client's side and end smtpd. */
  | 'close';

/** What the driver is to do next. */
export type Step =
  | { readonly type: 'to-client'; readonly bytes: Buffer }
  | { readonly type: 'to-smtpd'; readonly bytes: Buffer }
  /** Close smtpd's standard input: the client will send no more. */
  | { readonly type: 'end-smtpd' }
  /**
   * Write one line to stderr. About `smtpd-end` the driver has the details, such as the exit status;
   * `error-limit` can be caused by any client.
   */
  | { readonly type: 'notice'; readonly text: string; readonly about?: 'smtpd-end' | 'error-limit' }
  | { readonly type: 'verdict'; readonly verdict: Verdict };

/** The administrator's settings. */
export interface DialogueOptions {
  /** No mail and no HELO session without TLS (RFC 3207 section 4, reply 530). */
  readonly requireTls: boolean;
  /** AUTH may be offered and used in cleartext; no effect with `requireTls`. */
  readonly plaintextAuth: boolean;
  /** The dialogue ends with this many refused commands (4xx or 5xx, from smtpd or from us); at least 1. */
  readonly errorLimit: number;
}

/** The dialogue of one connection. */
export interface Dialogue {
  /** Takes bytes from the client. To be called only while `wantsClient` is true. */
  fromClient(bytes: Uint8Array): void;
  /** Takes bytes from smtpd. */
  fromSmtpd(bytes: Uint8Array): void;
  /** The client will send no more (it may still read). */
  clientEnded(): void;
  /** smtpd will send no more, or could not be started. */
  smtpdEnded(): void;
  /** The idle timeout has passed, or the session is aborted: the client gets a 421, the verdict is `close`. */
  timedOut(): void;
  /** The server is shutting down. The client gets smtpd's own 421, or ours if smtpd ends without one. */
  terminated(): void;
  /** The next step; undefined when there is none until more input arrives. */
  next(): Step | undefined;
  /** Whether the client may be read: only when no reply is outstanding. Valid once `next` gives undefined. */
  wantsClient(): boolean;
  /** The input that was not consumed; valid after the verdict. */
  rest(): { readonly client: Buffer; readonly smtpd: Buffer };
}

/**
 * The reply awaited from smtpd. `hello` is the reply to EHLO, `command` to another command of the client, and
 * `reset` to our own RSET, which the client does not see. `unsolicited` is a multiline reply that smtpd has begun
 * in the client's turn.
 */
type Awaited = 'greeting' | 'hello' | 'command' | 'reset' | 'unsolicited';

/** Whose turn it is: who has to send before the dialogue can go on. */
type Turn =
  | { readonly of: 'client' }
  /** `code` is that of a multiline reply whose last line has not arrived; undefined if none of it has. */
  | { readonly of: 'smtpd'; readonly awaited: Awaited; readonly code: number | undefined }
  /** The verdict is given. */
  | { readonly of: 'none' };

const CLIENTS_TURN: Turn = { of: 'client' };
/** smtpd's turn at the first line of a reply that nothing asked for. */
const UNSOLICITED = { of: 'smtpd', awaited: 'unsolicited', code: undefined } as const satisfies Turn;

const RSET = Buffer.from('RSET\r\n');
const CRLF = Buffer.from('\r\n');
const LF = Buffer.from('\n');

/**
 * Creates a dialogue. It begins with smtpd's greeting; until that has arrived the client is not read.
 *
 * @param options the administrator's settings.
 *
 * @example
 * ```ts
 * const dialogue = createDialogue({ requireTls: false, plaintextAuth: false, errorLimit: 20 });
 * dialogue.wantsClient(); // => false
 * dialogue.fromSmtpd(Buffer.from('220 mail.example ESMTP\r\n'));
 * dialogue.next(); // => { type: 'to-client', bytes: Buffer.from('220 mail.example ESMTP\r\n') }
 * dialogue.next(); // => undefined
 * dialogue.wantsClient(); // => true
 * dialogue.fromClient(Buffer.from('STARTTLS\r\n'));
 * dialogue.next(); // => { type: 'to-smtpd', bytes: Buffer.from('RSET\r\n') }
 * dialogue.next(); // => undefined
 * dialogue.fromSmtpd(Buffer.from('250 Ok\r\n'));
 * dialogue.next(); // => { type: 'to-client', bytes: Buffer.from('220 2.0.0 Ready to start TLS\r\n') }
 * dialogue.next(); // => { type: 'verdict', verdict: 'tls' }
 * ```
 */
export function createDialogue(options: DialogueOptions): Dialogue {
  const authAllowed = options.plaintextAuth && !options.requireTls;
  const client = createLineReader();
  const smtpd = createLineReader();
  const steps: Step[] = [];
  const rewriteEhloReply = createEhloReplyRewriter({
    authAllowed,
    starttlsOffered: () => {
      steps.push({ type: 'notice', text: 'smtpd offers STARTTLS itself; replacing its offer' });
    },
  });
  let turn: Turn = { of: 'smtpd', awaited: 'greeting', code: undefined };
  /** The code of the last complete reply of smtpd that was forwarded. */
  let lastCode = 0;
  /** The number of commands refused so far. */
  let refused = 0;
  /** `forwarded`: smtpd's input has been closed too. */
  let clientInput: 'open' | 'ended' | 'forwarded' = 'open';
  let smtpdHasEnded = false;
  let shuttingDown = false;

  // ---- commands ------------------------------------------------------------------------------------

  const commands: Readonly<Record<CommandKind, (command: Command, line: Line) => void>> = {
    hello: (_, line) => forward('hello', line),
    helo: (_, line) => (options.requireTls ? forward('command', line) : startRelay()),
    starttls: ({ argument }) => {
      if (argument !== '') answer(REPLIES.noParameter);
      else if (client.hasMore()) {
        answer(REPLIES.waitForTls);
        client.clear();
      } else {
        client.drop();
        toSmtpd(RSET, 'reset');
      }
    },
    mail: () => (options.requireTls ? answer(REPLIES.tlsFirst) : startRelay()),
    auth: () => (authAllowed ? startRelay() : answer(REPLIES.tlsBeforeAuth)),
    early: () => answer(REPLIES.mailFirst),
    chunk: ({ argument }) => {
      // The client sends the octets of the chunk whatever the reply (RFC 3030 section 2). They are not commands.
      client.skip(chunkSize(argument));
      refuse(REPLIES.mailFirst);
    },
    foreign: () => {
      steps.push({ type: 'notice', text: 'the client sent an HTTP request, closing' });
      close(REPLIES.notHttp);
    },
    empty: () => answer(REPLIES.noCommand),
    other: (_, line) => forward('command', line),
  };

  function handleCommand(line: Line): void {
    if (line.fault === 'too-long') return answer(REPLIES.tooLong);
    if (line.fault === 'control') return answer(REPLIES.controls);
    const command = parseCommand(line.text);
    commands[command.kind](command, line);
  }

  /** Refuses the current command without forwarding it to smtpd. */
  function answer(reply: Buffer): void {
    client.drop();
    refuse(reply);
  }

  function refuse(reply: Buffer): void {
    steps.push({ type: 'to-client', bytes: reply });
    countRefusal();
  }

  function countRefusal(): void {
    refused += 1;
    if (refused < options.errorLimit) return;
    steps.push({ type: 'notice', text: 'too many commands were refused, closing', about: 'error-limit' });
    close(REPLIES.tooManyErrors);
  }

  /** Forwards the current command to smtpd. */
  function forward(awaited: Awaited, line: Line): void {
    const bytes = Buffer.concat([line.text, CRLF]);
    client.drop();
    toSmtpd(bytes, awaited);
  }

  function toSmtpd(bytes: Buffer, awaited: Awaited): void {
    turn = { of: 'smtpd', awaited, code: undefined };
    steps.push({ type: 'to-smtpd', bytes });
  }

  /** The relay begins with the current command, which is not consumed. */
  function startRelay(): void {
    decide('plaintext');
  }

  // ---- replies -------------------------------------------------------------------------------------

  /** What each line of the awaited reply does, and then the last one, which has passed the turn to the client. */
  const replies: Readonly<
    Record<Awaited, { line: (line: ReplyLine, first: boolean) => void; end: (code: number) => void }>
  > = {
    greeting: { line: toClient, end: noteCode },
    hello: {
      line: (line, first) => {
        if (line.code === 250) for (const each of rewriteEhloReply(line, first)) toClient(each);
        else toClient(line);
      },
      end: endCommand,
    },
    command: { line: toClient, end: endCommand },
    reset: { line: () => {}, end: answerStarttls },
    unsolicited: { line: toClient, end: noteCode },
  };

  function handleReplyLine(line: Line): void {
    smtpd.drop();
    const { awaited, code } = turn.of === 'smtpd' ? turn : UNSOLICITED;
    const reply = line.fault === undefined ? parseReplyLine(line.text) : undefined;
    if (reply === undefined || (code !== undefined && code !== reply.code)) {
      steps.push({ type: 'notice', text: 'smtpd sent an invalid SMTP reply, closing' });
      return close(REPLIES.smtpdFailed);
    }
    turn = reply.last ? CLIENTS_TURN : { of: 'smtpd', awaited, code: reply.code };
    replies[awaited].line(reply, code === undefined);
    if (reply.last) replies[awaited].end(reply.code);
  }

  function toClient(line: ReplyLine): void {
    steps.push({ type: 'to-client', bytes: formatReplyLine(line) });
  }

  function noteCode(code: number): void {
    lastCode = code;
  }

  function endCommand(code: number): void {
    noteCode(code);
    if (code >= 400) countRefusal();
  }

  function answerStarttls(code: number): void {
    if (code >= 300) return refuse(REPLIES.tlsUnavailable);
    steps.push({ type: 'to-client', bytes: REPLIES.readyForTls });
    decide('tls');
  }

  // ---- ends ----------------------------------------------------------------------------------------

  /** smtpd will send no more. A client that expects a reply gets a 421. */
  function handleSmtpdEnd(): void {
    if (turn.of === 'client' && (clientInput !== 'open' || reasonSent())) return decide('close');
    if (shuttingDown) return close(REPLIES.shuttingDown);
    const beforeGreeting = turn.of === 'smtpd' && turn.awaited === 'greeting';
    const text = beforeGreeting ? 'smtpd exited before its greeting' : 'smtpd exited mid-dialogue';
    steps.push({ type: 'notice', text, about: 'smtpd-end' });
    close(REPLIES.smtpdFailed);
  }

  /** A server that closes the connection after a refusal has given the reason, with 421 or another code. */
  function reasonSent(): boolean {
    return lastCode === 221 || lastCode === 421 || (lastCode >= 400 && client.peek() === undefined);
  }

  /** The timeout or an abort. After 221 smtpd should have closed the connection; no further reply is due. */
  function handleTimeout(): void {
    if (turn.of === 'none') return;
    if (turn.of === 'client' && lastCode === 221) decide('close');
    else close(shuttingDown ? REPLIES.shuttingDown : REPLIES.tooSlow);
  }

  function close(reply: Buffer): void {
    steps.push({ type: 'to-client', bytes: reply });
    decide('close');
  }

  function decide(verdict: Verdict): void {
    turn = { of: 'none' };
    steps.push({ type: 'verdict', verdict });
  }

  // ---- the machine ---------------------------------------------------------------------------------

  /** Consumes one line or one end of input; returns false when there is nothing to consume. */
  function advance(): boolean {
    if (turn.of === 'none') return false;
    const reply = smtpd.peek();
    if (reply !== undefined) handleReplyLine(reply);
    else if (smtpdHasEnded) handleSmtpdEnd();
    else return turn.of === 'client' && advanceClient();
    return true;
  }

  function advanceClient(): boolean {
    const command = client.peek();
    if (command !== undefined) handleCommand(command);
    else if (clientInput === 'ended') {
      clientInput = 'forwarded';
      steps.push({ type: 'end-smtpd' });
    } else return false;
    return true;
  }

  return {
    fromClient: (bytes) => client.push(bytes),
    fromSmtpd: (bytes) => smtpd.push(bytes),
    clientEnded: () => {
      if (clientInput === 'open') clientInput = 'ended';
    },
    smtpdEnded: () => {
      smtpdHasEnded = true;
      // A last line without a line ending is delivered too.
      if (smtpd.rest().length > 0 && smtpd.peek() === undefined) smtpd.push(LF);
    },
    timedOut: handleTimeout,
    terminated: () => {
      shuttingDown = true;
    },
    next: () => {
      while (steps.length === 0 && advance());
      return steps.shift();
    },
    wantsClient: () => turn.of === 'client' && clientInput === 'open',
    rest: () => ({ client: client.rest(), smtpd: smtpd.rest() }),
  };
}
