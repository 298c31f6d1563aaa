/**
 * The dialogue: the SMTP commands and replies that pass in cleartext between a client and an smtpd without
 * TLS, until the session is known to continue in TLS, to continue in cleartext, or to close.
 *
 * RULES. Everything that decides what either side receives is in this file and in ehlo-reply.ts. Neither does any
 * I/O or has timers: bytes go in, steps come out, and the driver (converse.ts) carries the steps out in order.
 *
 * THEORY OF OPERATION
 *
 * The dialogue stands between two parties. The client sees an SMTP server that offers STARTTLS. smtpd sees a
 * client that never pipelines.
 *
 * Lock-step. While a reply is outstanding (the greeting, the reply to a command, or an unsolicited multiline
 * reply that smtpd has begun), the dialogue processes no further command, and the driver does not read the
 * client. This one rule gives the order of replies (RFC 2920 section 3.2), the bound on memory (one read of
 * input, one line of output), and the safety of STARTTLS.
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

/** The reply awaited from smtpd. `reset` is the reply to our own RSET, which the client does not see. */
type Awaited = 'greeting' | 'hello' | 'reply' | 'reset';

const RSET = Buffer.from('RSET\r\n');
const CRLF = Buffer.from('\r\n');
const LF = Buffer.from('\n');

/**
 * Creates a dialogue. It begins with smtpd's greeting; until that has arrived the client is not read.
 *
 * @param options the administrator's settings.
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
  let awaited: Awaited | undefined = 'greeting';
  /** The code of a multiline reply whose last line has not arrived yet. */
  let partialCode: number | undefined;
  /** The code of smtpd's last complete reply. */
  let lastCode = 0;
  let verdict: Verdict | undefined;
  let shuttingDown = false;
  let clientHasEnded = false;
  let smtpdInputEnded = false;
  let smtpdHasEnded = false;
  /** The number of commands refused so far. */
  let refused = 0;

  // ---- commands ------------------------------------------------------------------------------------

  const commands: Readonly<Record<CommandKind, (command: Command, line: Line) => void>> = {
    hello: (_, line) => forward('hello', line),
    helo: (_, line) => (options.requireTls ? forward('reply', line) : startRelay()),
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
      // The client sends the octets of the chunk whatever the reply (RFC 3030 section 4.2). They are not commands.
      client.skip(chunkSize(argument));
      refuse(REPLIES.mailFirst);
    },
    foreign: () => {
      steps.push({ type: 'notice', text: 'the client sent an HTTP request, closing' });
      close(REPLIES.notHttp);
    },
    empty: () => answer(REPLIES.noCommand),
    other: (_, line) => forward('reply', line),
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
  function forward(reply: Awaited, line: Line): void {
    const bytes = Buffer.concat([line.text, CRLF]);
    client.drop();
    toSmtpd(bytes, reply);
  }

  function toSmtpd(bytes: Buffer, reply: Awaited): void {
    awaited = reply;
    steps.push({ type: 'to-smtpd', bytes });
  }

  /** The relay begins with the current command, which is not consumed. */
  function startRelay(): void {
    decide('plaintext');
  }

  // ---- replies -------------------------------------------------------------------------------------

  function handleReplyLine(line: Line): void {
    smtpd.drop();
    const reply = line.fault === undefined ? parseReplyLine(line.text) : undefined;
    if (reply === undefined || (partialCode !== undefined && partialCode !== reply.code)) {
      steps.push({ type: 'notice', text: 'smtpd sent an invalid SMTP reply, closing' });
      return close(REPLIES.smtpdFailed);
    }
    const first = partialCode === undefined;
    partialCode = reply.last ? undefined : reply.code;
    if (awaited === 'reset') return handleResetReply(reply);
    const lines = awaited === 'hello' && reply.code === 250 ? rewriteEhloReply(reply, first) : [reply];
    for (const each of lines) steps.push({ type: 'to-client', bytes: formatReplyLine(each) });
    if (!reply.last) return;
    const isAnswer = awaited === 'hello' || awaited === 'reply';
    awaited = undefined;
    lastCode = reply.code;
    if (isAnswer && reply.code >= 400) countRefusal();
  }

  function handleResetReply(reply: ReplyLine): void {
    if (!reply.last) return;
    awaited = undefined;
    if (reply.code >= 300) return refuse(REPLIES.tlsUnavailable);
    steps.push({ type: 'to-client', bytes: REPLIES.readyForTls });
    decide('tls');
  }

  // ---- ends ----------------------------------------------------------------------------------------

  /** smtpd will send no more. A client that expects a reply gets a 421. */
  function handleSmtpdEnd(): void {
    // A server that closes the connection after a refusal has given the reason, with 421 or another code.
    const reasonSent =
      lastCode === 221 || lastCode === 421 || (lastCode >= 400 && client.peek() === undefined);
    if (clientMaySend() && (clientHasEnded || reasonSent)) return decide('close');
    if (shuttingDown) return close(REPLIES.shuttingDown);
    const text = awaited === 'greeting' ? 'smtpd exited before its greeting' : 'smtpd exited mid-dialogue';
    steps.push({ type: 'notice', text, about: 'smtpd-end' });
    close(REPLIES.smtpdFailed);
  }

  function close(reply: Buffer): void {
    steps.push({ type: 'to-client', bytes: reply });
    decide('close');
  }

  function decide(decision: Verdict): void {
    verdict = decision;
    steps.push({ type: 'verdict', verdict: decision });
  }

  // ---- the machine ---------------------------------------------------------------------------------

  /** No reply is outstanding: the client may send a command. */
  function clientMaySend(): boolean {
    return verdict === undefined && awaited === undefined && partialCode === undefined;
  }

  /** Consumes one line or one end of input; returns false when there is nothing to consume. */
  function advance(): boolean {
    if (verdict !== undefined) return false;
    const reply = smtpd.peek();
    if (reply !== undefined) {
      handleReplyLine(reply);
      return true;
    }
    if (smtpdHasEnded) {
      handleSmtpdEnd();
      return true;
    }
    if (!clientMaySend()) return false;
    const line = client.peek();
    if (line !== undefined) {
      handleCommand(line);
      return true;
    }
    if (clientHasEnded && !smtpdInputEnded) {
      smtpdInputEnded = true;
      steps.push({ type: 'end-smtpd' });
      return true;
    }
    return false;
  }

  return {
    fromClient: (bytes) => client.push(bytes),
    fromSmtpd: (bytes) => smtpd.push(bytes),
    clientEnded: () => {
      clientHasEnded = true;
    },
    smtpdEnded: () => {
      smtpdHasEnded = true;
      // A last line without a line ending is delivered too.
      if (smtpd.rest().length > 0 && smtpd.peek() === undefined) smtpd.push(LF);
    },
    timedOut: () => {
      if (verdict !== undefined) return;
      // After 221 smtpd should have closed the connection; no further reply is due.
      if (clientMaySend() && lastCode === 221) decide('close');
      else close(shuttingDown ? REPLIES.shuttingDown : REPLIES.tooSlow);
    },
    terminated: () => {
      shuttingDown = true;
    },
    next: () => {
      while (steps.length === 0 && advance());
      return steps.shift();
    },
    wantsClient: () => clientMaySend() && !clientHasEnded,
    rest: () => ({ client: client.rest(), smtpd: smtpd.rest() }),
  };
}
