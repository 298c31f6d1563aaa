/**
 * The dialogue: what is said in cleartext between a client and an smtpd that knows no TLS, until it is
 * clear whether this will be a session in TLS, one in cleartext, or none.
 *
 * RULES. Everything that decides what either side hears stands in this file. It does no I/O and knows no
 * clock: bytes go in, steps come out, and the driver (converse.ts) carries them out in their order.
 *
 * THEORY OF OPERATION
 *
 * Two parties talk through us, and each sees an honest counterpart. The client sees an SMTP server that
 * offers STARTTLS. smtpd sees a client that never pipelines.
 *
 * One thing at a time. The dialogue is in lock-step: while a reply is owed to the client, be it the
 * greeting, the answer to a command, or an unasked reply of which smtpd has said the first of several
 * lines, no further command is looked at, and the driver is told not to read the client. From that one
 * rule follow the order of replies (RFC 2920 section 3.2), the bound on memory (one read of input, one
 * line of output), and the safety of STARTTLS.
 *
 * STARTTLS is safe because nothing is read behind it. When its line is looked at, bytes behind it in the
 * same read are an answer to a reply that was not sent yet: an injected command (CVE-2011-0411), or a
 * client that does not wait as RFC 3207 section 4 says. It is refused, and those bytes are thrown away to
 * the end of their line, so that the client gets one reply to its one command. With nothing behind it the client
 * is not read again while smtpd is reset, and not after the 220 either: whatever comes later goes to the
 * TLS engine, which takes no SMTP. There is no path from such bytes to smtpd.
 *
 * The verdict. HELO and MAIL (and AUTH, where it is allowed in cleartext) show that the client will not
 * ask for TLS. They are not consumed: verdict `plaintext` hands them on with all that stands behind them,
 * and the relay begins with those bytes. That is also why pipelining costs nothing: what clients pipeline
 * begins with MAIL.
 *
 * Mistakes are bounded. An empty line of one octet costs its client nothing and us a reply of fifty, so after
 * `errorLimit` commands that were refused, by smtpd or by us, the client gets a 421 and the verdict is `close`.
 * All refused commands of the dialogue count, not those in a row: a NOOP now and then would begin the count anew.
 *
 * smtpd's replies pass line by line as they come, never gathered, so a reply may be of any length. The
 * only ones that are changed are those to EHLO; that too is done a line at a time (`helloLine`).
 */

import { type Command, type CommandKind, chunkSize, parseCommand } from './command.ts';
import { createLineReader, type Line } from './line.ts';
import { extensionKeyword, formatReplyLine, parseReplyLine, REPLIES, type ReplyLine } from './reply.ts';

/** How the dialogue ended. */
export type Verdict =
  /** Relay both sides raw, in cleartext, beginning with `rest`. */
  | 'plaintext'
  /** The 220 is said: start TLS with the client, then relay both sides raw. */
  | 'tls'
  /** Nothing more to say: close the client's side and end smtpd. */
  | 'close';

/** What the driver is to do next. */
export type Step =
  | { readonly type: 'to-client'; readonly bytes: Buffer }
  | { readonly type: 'to-smtpd'; readonly bytes: Buffer }
  /** Close smtpd's standard input: the client will say no more. */
  | { readonly type: 'end-smtpd' }
  /**
   * Write one line to stderr. Where it is about how smtpd ended the driver knows more; where it is about the
   * error limit any client can cause it.
   */
  | { readonly type: 'notice'; readonly text: string; readonly about?: 'smtpd-end' | 'error-limit' }
  | { readonly type: 'verdict'; readonly verdict: Verdict };

/** What the one who runs the server decides. */
export interface DialogueOptions {
  /** No mail and no HELO session without TLS (RFC 3207 section 4, reply 530). */
  readonly requireTls: boolean;
  /** AUTH may be offered and used in cleartext; means nothing together with `requireTls`. */
  readonly plaintextAuth: boolean;
  /** How many commands may be refused, with 4xx or 5xx, by smtpd or by us: the last of them ends the dialogue. */
  readonly errorLimit: number;
}

/** The dialogue of one connection. */
export interface Dialogue {
  /** Takes what the client said. To be called only while `wantsClient`. */
  fromClient(bytes: Uint8Array): void;
  /** Takes what smtpd said. */
  fromSmtpd(bytes: Uint8Array): void;
  /** The client will say no more (it may still listen). */
  clientEnded(): void;
  /** smtpd will say no more, or could not even be started. */
  smtpdEnded(): void;
  /** Nothing happened for too long, or there is no time left: the client hears 421, the verdict is `close`. */
  timedOut(): void;
  /** The server is being shut down. smtpd knows and may say so itself; if it does not, the client hears 421. */
  terminated(): void;
  /** The next thing to do; undefined when there is none until something comes in. */
  next(): Step | undefined;
  /** Whether the client may be read: true only when nothing is owed to it. Ask when `next` has run dry. */
  wantsClient(): boolean;
  /** What came in and was not consumed; asked for after the verdict. */
  rest(): { readonly client: Buffer; readonly smtpd: Buffer };
}

/** What smtpd owes. `reset` is the answer to our own RSET, of which the client hears nothing. */
type Owed = 'greeting' | 'hello' | 'reply' | 'reset';

const RSET = Buffer.from('RSET\r\n');
const CRLF = Buffer.from('\r\n');
const LF = Buffer.from('\n');

/**
 * Opens a dialogue. smtpd owes its greeting, so the client is not listened to yet.
 *
 * @param options what the one who runs the server decides.
 */
export function createDialogue(options: DialogueOptions): Dialogue {
  const mayAuth = options.plaintextAuth && !options.requireTls;
  const client = createLineReader();
  const smtpd = createLineReader();
  const steps: Step[] = [];
  let owed: Owed | undefined = 'greeting';
  /** The code of a reply of which a line was said and more must follow. */
  let unfinished: number | undefined;
  /** The code of smtpd's last whole reply. */
  let lastCode = 0;
  let verdict: Verdict | undefined;
  let shuttingDown = false;
  let clientGone = false;
  let smtpdWasTold = false;
  let smtpdHasEof = false;
  let saidThatSmtpdOffersTls = false;
  /** How many commands were refused. */
  let refused = 0;

  // ---- commands ------------------------------------------------------------------------------------

  const commands: Readonly<Record<CommandKind, (command: Command, line: Line) => void>> = {
    hello: (_, line) => ask('hello', line),
    helo: (_, line) => (options.requireTls ? ask('reply', line) : handOver()),
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
    mail: () => (options.requireTls ? answer(REPLIES.tlsFirst) : handOver()),
    auth: () => (mayAuth ? handOver() : answer(REPLIES.tlsBeforeAuth)),
    early: () => answer(REPLIES.mailFirst),
    chunk: ({ argument }) => {
      // The octets of the chunk come whatever we say to it (RFC 3030 section 4.2). They are no commands.
      client.skip(chunkSize(argument));
      refuse(REPLIES.mailFirst);
    },
    foreign: () => {
      steps.push({ type: 'notice', text: 'the client speaks HTTP, closing' });
      close(REPLIES.notHttp);
    },
    empty: () => answer(REPLIES.noCommand),
    other: (_, line) => ask('reply', line),
  };

  function takeCommand(line: Line): void {
    if (line.fault === 'too-long') return answer(REPLIES.tooLong);
    if (line.fault === 'control') return answer(REPLIES.controls);
    const command = parseCommand(line.text);
    commands[command.kind](command, line);
  }

  /** Refuses the command at hand without asking smtpd. */
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

  /** Lets smtpd answer the command at hand. */
  function ask(what: Owed, line: Line): void {
    const bytes = Buffer.concat([line.text, CRLF]);
    client.drop();
    toSmtpd(bytes, what);
  }

  function toSmtpd(bytes: Buffer, what: Owed): void {
    owed = what;
    steps.push({ type: 'to-smtpd', bytes });
  }

  /** The command at hand, unconsumed, is where the relay begins. */
  function handOver(): void {
    decide('plaintext');
  }

  // ---- replies -------------------------------------------------------------------------------------

  function takeReplyLine(line: Line): void {
    smtpd.drop();
    const reply = line.fault === undefined ? parseReplyLine(line.text) : undefined;
    if (reply === undefined || (unfinished !== undefined && unfinished !== reply.code)) {
      steps.push({ type: 'notice', text: 'smtpd said something that is no SMTP reply, closing' });
      return close(REPLIES.smtpdFailed);
    }
    const first = unfinished === undefined;
    unfinished = reply.last ? undefined : reply.code;
    if (owed === 'reset') return takeResetReply(reply);
    if (owed === 'hello' && reply.code === 250) helloLine(reply, first);
    else steps.push({ type: 'to-client', bytes: formatReplyLine(reply) });
    if (!reply.last) return;
    const isAnswer = owed === 'hello' || owed === 'reply';
    owed = undefined;
    lastCode = reply.code;
    if (isAnswer && reply.code >= 400) countRefusal();
  }

  function takeResetReply(reply: ReplyLine): void {
    if (!reply.last) return;
    owed = undefined;
    const willing = reply.code < 300;
    if (!willing) return refuse(REPLIES.tlsUnavailable);
    steps.push({ type: 'to-client', bytes: REPLIES.readyForTls });
    decide('tls');
  }

  /**
   * Passes on a line of a 250 reply to EHLO: STARTTLS stands in it once, as its last line, and AUTH only
   * where it may be used. The first line names the host and is no extension, whatever it looks like.
   */
  function helloLine(line: ReplyLine, first: boolean): void {
    if (first || isOffered(extensionKeyword(line))) {
      steps.push({ type: 'to-client', bytes: formatReplyLine({ ...line, last: false }) });
    }
    if (line.last) {
      steps.push({
        type: 'to-client',
        bytes: formatReplyLine({ code: line.code, last: true, text: 'STARTTLS' }),
      });
    }
  }

  function isOffered(keyword: string): boolean {
    if (keyword === 'AUTH') return mayAuth;
    if (keyword !== 'STARTTLS') return true;
    if (!saidThatSmtpdOffersTls) {
      saidThatSmtpdOffersTls = true;
      steps.push({ type: 'notice', text: 'smtpd offers STARTTLS itself; ours stands in its place' });
    }
    return false;
  }

  // ---- ends ----------------------------------------------------------------------------------------

  /** smtpd has said its last. If the client waits for more than that, it is told. */
  function takeSmtpdEnd(): void {
    // A server that hangs up after a refusal has said why, 421 or not.
    const saidWhy = lastCode === 221 || lastCode === 421 || (lastCode >= 400 && client.peek() === undefined);
    if (isClientsTurn() && (clientGone || saidWhy)) return decide('close');
    if (shuttingDown) return close(REPLIES.shuttingDown);
    const text = owed === 'greeting' ? 'smtpd ended before its greeting' : 'smtpd ended in mid-dialogue';
    steps.push({ type: 'notice', text, about: 'smtpd-end' });
    close(REPLIES.smtpdFailed);
  }

  function close(reply: Buffer): void {
    steps.push({ type: 'to-client', bytes: reply });
    decide('close');
  }

  function decide(what: Verdict): void {
    verdict = what;
    steps.push({ type: 'verdict', verdict: what });
  }

  // ---- the machine ---------------------------------------------------------------------------------

  /** Nothing is owed to the client: it may speak. */
  function isClientsTurn(): boolean {
    return verdict === undefined && owed === undefined && unfinished === undefined;
  }

  /** Consumes one line, or one end; returns false when there is nothing to consume. */
  function advance(): boolean {
    if (verdict !== undefined) return false;
    const reply = smtpd.peek();
    if (reply !== undefined) {
      takeReplyLine(reply);
      return true;
    }
    if (smtpdHasEof) {
      takeSmtpdEnd();
      return true;
    }
    if (!isClientsTurn()) return false;
    const line = client.peek();
    if (line !== undefined) {
      takeCommand(line);
      return true;
    }
    if (clientGone && !smtpdWasTold) {
      smtpdWasTold = true;
      steps.push({ type: 'end-smtpd' });
      return true;
    }
    return false;
  }

  return {
    fromClient: (bytes) => client.push(bytes),
    fromSmtpd: (bytes) => smtpd.push(bytes),
    clientEnded: () => {
      clientGone = true;
    },
    smtpdEnded: () => {
      smtpdHasEof = true;
      // Last words without a line's end are delivered all the same.
      if (smtpd.rest().length > 0 && smtpd.peek() === undefined) smtpd.push(LF);
    },
    timedOut: () => {
      if (verdict !== undefined) return;
      // After its 221 there is nothing to add, but smtpd ought to have hung up.
      if (isClientsTurn() && lastCode === 221) decide('close');
      else close(shuttingDown ? REPLIES.shuttingDown : REPLIES.tooSlow);
    },
    terminated: () => {
      shuttingDown = true;
    },
    next: () => {
      while (steps.length === 0 && advance());
      return steps.shift();
    },
    wantsClient: () => isClientsTurn() && !clientGone,
    rest: () => ({ client: client.rest(), smtpd: smtpd.rest() }),
  };
}
