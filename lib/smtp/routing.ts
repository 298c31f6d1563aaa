/**
 * Routing: the server's part of a session whose smtpd is somewhere else. Either all mail has one destination; or there are
 * routes, and it depends on the sender, or on the recipient too. The routing answers the client until the destination is
 * known, and follows the session after that: the next transaction may have another destination.
 *
 *   command            what happens
 *   -----------------  ----------------------------------------------------------------------------------
 *   EHLO, HELO, LHLO   routes: 250 with our name and, for EHLO, what is offered
 *                      one destination: it is connected to, and its own reply is given, less what is hidden
 *     with MAIL there  RSET is sent to the destination first
 *   MAIL               503 5.5.1 in a transaction
 *                      routes: 501 5.1.7 if it has no address
 *                      routes by recipient: 250 2.1.0, and it is kept
 *                      otherwise: the destination is connected to, and it is passed; 550 5.7.1 without a route
 *   RCPT               503 5.5.1 without MAIL
 *                      routes by recipient: see below
 *                      otherwise: passed; 452 4.5.3 if the destination takes one recipient only and has it
 *   DATA, BDAT         503 5.5.1 without MAIL, 554 5.5.1 if no destination has it; otherwise passed
 *                      501 5.5.4 for BDAT without a plain size below 10^9
 *   RSET               250 2.0.0; passed if a destination has MAIL
 *   NOOP, QUIT         answered without a destination; otherwise passed
 *   VRFY, EXPN, HELP   routes: 502 5.5.1 without a destination; otherwise passed
 *                      one destination: passed, if need be after it is connected to
 *   any other          routes: 502 5.5.1; one destination: as VRFY
 *   STARTTLS, AUTH     503 5.5.1, 502 5.5.1
 *   XCLIENT, XFORWARD  502 5.5.1
 *   an HTTP method     421 4.7.0, the end
 *   an empty line      500 5.5.2
 *   an invalid line    500 5.5.2 (too long, bare CR, NUL)
 *   the last refused   its reply, notice, 421 4.7.0, the end
 *
 *   RCPT by recipient  what happens
 *   -----------------  ----------------------------------------------------------------------------------
 *   any                501 5.1.3 if it has no address; 550 5.7.1 without a route
 *   the first          the destination is connected to and gets MAIL; the refusal of either is the reply
 *   another            452 4.5.3 if its destination is not that of the first, or takes one recipient only
 *   otherwise          passed
 *
 * Hidden are extensions that are between us and the destination: STARTTLS, AUTH; with XCLIENT and XFORWARD the client would
 * choose its own address, if the destination trusts ours; and PIPECONNECT is a promise that we do not keep. LHLO is for LMTP,
 * EHLO and HELO are for SMTP.
 *
 * A destination that cannot be had is tried again with the next command that needs it; a destination that is the only one
 * is not, and the reply is the same. Before another destination is connected to, the one before is left, and all of its
 * replies have come. A destination without PIPELINING gets one command at a time. A transaction ends with the reply to
 * its message, with RSET or EHLO, and with the next MAIL if DATA or BDAT was refused.
 *
 * It does no I/O and has no timers.
 */

import type { Command, CommandKind } from './command.ts';
import type { Answer, Decision } from './decision.ts';
import type { Destination, OneDestination, Routes, RouteTable } from './destination.ts';
import { createEnvelope } from './envelope.ts';
import { parsePath } from './path.ts';
import { extensionKeyword, REPLIES } from './reply.ts';
import { formatReply, isPositive, type Reply } from './reply-reader.ts';

/** What the driver is to do next. */
export type RoutingStep<D extends Destination> =
  | { readonly type: 'to-client' | 'to-smtpd'; readonly bytes: Uint8Array }
  /** End the session with the destination. */
  | { readonly type: 'disconnect' }
  /** Connect to a destination; `connected` or `refuse` follows. `hello` is the client's last EHLO or HELO line. */
  | { readonly type: 'connect'; readonly destination: D; readonly hello: string | undefined }
  /** The client will send no more. */
  | { readonly type: 'end-smtpd' }
  | RoutingNotice
  /** The session has ended. Nothing follows. */
  | { readonly type: 'end' };

/** Something to report. Any client can cause it, but for what has no topic. */
export interface RoutingNotice {
  readonly type: 'notice';
  readonly text: string;
  readonly about?: 'http' | 'error-limit';
}

/** The settings of a routing. */
export interface RoutingOptions<D extends Destination> {
  /** In the greeting and in replies to EHLO. */
  readonly name: string;
  /** What the client uses; LMTP for one destination only. */
  readonly protocol: 'smtp' | 'lmtp';
  readonly to: OneDestination<D> | Routes<D>;
  /** The session ends with this many refused commands, recipients with another route not counted; at least 1. */
  readonly errorLimit: number;
}

/** The routing of one session. */
export interface Routing<D extends Destination> {
  /** Takes bytes from the client. They must not change until `next` has returned undefined. */
  fromClient(bytes: Uint8Array): void;
  /** Takes bytes from the destination, after `connected`. They are copied. */
  fromSmtpd(bytes: Uint8Array): void;
  clientEnded(): void;
  /** The destination sends no more. A client that awaits more gets this reply, then the session ends. */
  smtpdEnded(reply: Buffer): void;
  /** The idle timeout has passed. The client gets a 421, then the session ends. */
  timedOut(): void;
  /** After `connect`: the destination awaits MAIL. `hello` is its reply to EHLO, HELO or LHLO. */
  connected(hello: Reply): void;
  /** After `connect`: the destination cannot be had, and this is the reply to the command that needs it. */
  refuse(reply: Buffer): void;
  /** The next step; undefined when there is none until more input arrives. */
  next(): RoutingStep<D> | undefined;
  /** Whether the client should be read. Valid once `next` has returned undefined. */
  wantsClient(): boolean;
  /** Whether the destination may get QUIT: it owes no reply, and is not in a message. */
  mayQuit(): boolean;
}

/** What is known between MAIL and the end of its transaction. */
interface Transaction<D extends Destination> {
  /** Undefined for one destination. */
  readonly table: RouteTable<D> | undefined;
  readonly sender: string;
  /** The MAIL command, without line ending. */
  readonly mail: string;
  /** It has MAIL. */
  destination: D | undefined;
  /** How many recipients it has got and not refused. */
  recipients: number;
  /** DATA or BDAT was refused. */
  hasFailed: boolean;
}

const PASS: Decision = { type: 'pass' };
const HOLD: Decision = { type: 'hold' };
const AFTER_REPLIES: Decision = { type: 'after-replies' };

/** Creates a routing. It begins with the greeting. Memory: see `createEnvelope`. */
export function createRouting<D extends Destination>(options: RoutingOptions<D>): Routing<D> {
  const { name, protocol } = options;
  const routes = 'table' in options.to ? options.to : undefined;
  const only = 'only' in options.to ? options.to.only : undefined;
  const greeting = reply(220, [`${name} ${protocol === 'lmtp' ? 'LMTP' : 'ESMTP'}`]);
  const steps: RoutingStep<D>[] = [{ type: 'to-client', bytes: greeting }];
  let hello: string | undefined;
  let transaction: Transaction<D> | undefined;
  let current: D | undefined;
  /** The one that is connected to. */
  let awaited: D | undefined;
  /** Its reply to EHLO, less what is not for the client. */
  let offer: Reply = { code: 250, texts: [name, ...(routes?.offers ?? [])] };
  let canPipeline = false;
  /** The reply of a destination to a connection, or to MAIL, for the command that is held; for all, of one that is alone. */
  let refusal: Buffer | undefined;
  let refused = 0;
  /** The code of the last line for the client. */
  let lastCode = '';
  /** The end of the client was passed on. */
  let isForwarded = false;
  let isOver = false;

  const envelope = createEnvelope({
    protocol,
    decide: (command, text, isQuiet) => {
      const last = refusal;
      // Of this command, whatever the routes are by now.
      if (last !== undefined && only === undefined) {
        refusal = undefined;
        return refuse(last);
      }
      if (current !== undefined && !canPipeline && !isQuiet) return AFTER_REPLIES;
      return decisions[command.kind](command, text.toString('latin1'), isQuiet);
    },
    answerInvalid: refuse,
    messageReplied: () => {
      // After a refused BDAT it goes on at the destination.
      if (transaction?.hasFailed !== true) transaction = undefined;
    },
  });

  const decisions: Readonly<
    Record<CommandKind, (command: Command, line: string, isQuiet: boolean) => Decision>
  > = {
    hello: ({ verb }, line, isQuiet) => {
      if ((verb === 'LHLO') !== (protocol === 'lmtp')) return refuse(REPLIES.notAvailable);
      return introduce(line, isQuiet, ({ texts }) => texts);
    },
    helo: (_, line, isQuiet) =>
      protocol === 'lmtp'
        ? refuse(REPLIES.notAvailable)
        : introduce(line, isQuiet, ({ texts }) => [(texts[0] ?? '').split(' ')[0] ?? '']),
    mail: decideMail,
    early: (command, line, isQuiet) =>
      command.verb === 'RCPT' ? decideRecipient(command, isQuiet) : decideMessage(REFUSES_DATA, line),
    chunk: ({ argument }) => {
      // Another reading of the size at the destination would make commands of a part of the message.
      if (!CHUNK.test(argument)) return refuse(REPLIES.badChunk);
      return decideMessage(REFUSES_CHUNK, `BDAT ${argument}`);
    },
    starttls: () => refuse(REPLIES.noSecondTls),
    auth: () => refuse(REPLIES.noAuth),
    foreign: () => {
      steps.push({ type: 'notice', text: 'the client sent an HTTP request, closing', about: 'http' });
      return { type: 'answer', reply: REPLIES.notHttp, end: true };
    },
    empty: () => refuse(REPLIES.noCommand),
    other: ({ verb }, _, isQuiet) => {
      if (verb === 'RSET') return reset();
      if (REFUSED.has(verb)) return refuse(REPLIES.notAvailable);
      if (current !== undefined && (only !== undefined || PASSED.has(verb))) return PASS;
      if (verb === 'NOOP') return answer(REPLIES.ok);
      if (verb === 'QUIT') return { type: 'answer', reply: REPLIES.bye, end: true };
      return only === undefined ? refuse(REPLIES.notAvailable) : withDestination(only, isQuiet, () => PASS);
    },
  };

  /** @param textsOf what of the offer is for the client. */
  function introduce(line: string, isQuiet: boolean, textsOf: (offer: Reply) => readonly string[]): Decision {
    const before = transaction;
    transaction = undefined;
    // EHLO ends a transaction (RFC 5321 section 4.1.4).
    if (before?.destination !== undefined) return { type: 'precede', line: 'RSET', replied: () => {} };
    hello = line;
    const answerHello = (): Decision => answer(reply(offer.code, textsOf(offer)));
    return only === undefined ? answerHello() : withDestination(only, isQuiet, answerHello);
  }

  function reset(): Decision {
    const before = transaction;
    transaction = undefined;
    return before?.destination === undefined ? answer(REPLIES.ok) : PASS;
  }

  function decideMail({ argument }: Command, mail: string, isQuiet: boolean): Decision {
    // Only then it is known whether there is a transaction.
    if (!isQuiet) return AFTER_REPLIES;
    if (transaction?.hasFailed === true) {
      transaction = undefined;
      return { type: 'precede', line: 'RSET', replied: () => {} };
    }
    if (transaction !== undefined) return refuse(REPLIES.nestedMail);
    const table = routes?.table();
    const path = table === undefined ? undefined : parsePath(argument, 'FROM', true);
    if (typeof path === 'string') return refuse(REPLIES.badSender);
    const sender = path?.mailbox ?? '';
    const next: Transaction<D> = {
      table,
      sender,
      mail,
      destination: undefined,
      recipients: 0,
      hasFailed: false,
    };
    if (table?.hasRecipients === true) {
      transaction = next;
      return answer(REPLIES.senderOk);
    }
    return withDestination(only ?? table?.find(sender, undefined), isQuiet, (destination) => {
      next.destination = destination;
      // Before its reply: commands that are pipelined behind it belong to it.
      transaction = next;
      return {
        type: 'pass',
        replied: (code) => {
          if (code >= 300 && transaction === next) transaction = undefined;
        },
      };
    });
  }

  function decideRecipient({ argument }: Command, isQuiet: boolean): Decision {
    const of = transaction;
    if (of === undefined) return refuse(REPLIES.mailFirst);
    if (only !== undefined) return PASS;
    const path = parsePath(argument, 'TO', true);
    if (typeof path === 'string') return refuse(REPLIES.badRecipient);
    const found = of.table?.hasRecipients === true ? of.table.find(of.sender, path.mailbox) : of.destination;
    if (found !== undefined && of.destination !== undefined) return passRecipient(of, found);
    return withDestination(found, isQuiet, (destination) => ({
      type: 'precede',
      line: of.mail,
      replied: (mailReply) => {
        if (isPositive(mailReply)) of.destination = destination;
        else refusal = formatReply(mailReply);
      },
    }));
  }

  function passRecipient(of: Transaction<D>, found: D): Decision {
    const isOther = found.key !== of.destination?.key;
    if (isOther || (found.takesOneRecipient && of.recipients > 0)) return answer(REPLIES.otherRoute);
    of.recipients += 1;
    return {
      type: 'pass',
      replied: (code) => {
        if (code >= 300) of.recipients -= 1;
      },
    };
  }

  /**
   * @param isRefusal whether a reply to the command refuses the message.
   * @param line what is passed.
   */
  function decideMessage(isRefusal: (code: number) => boolean, line: string): Decision {
    const of = transaction;
    if (of === undefined) return refuse(REPLIES.mailFirst);
    if (of.destination === undefined) return refuse(REPLIES.noRecipients);
    return {
      type: 'pass',
      line,
      replied: (code) => {
        if (isRefusal(code)) of.hasFailed = true;
      },
    };
  }

  /** Decides once the destination of a command is connected to. */
  function withDestination(
    destination: D | undefined,
    isQuiet: boolean,
    decide: (destination: D) => Decision,
  ): Decision {
    if (destination === undefined) return refuse(REPLIES.noRoute);
    if (refusal !== undefined) return refuse(refusal);
    if (current?.key === destination.key) return decide(current);
    if (!isQuiet) return AFTER_REPLIES;
    if (current !== undefined) steps.push({ type: 'disconnect' });
    current = undefined;
    awaited = destination;
    steps.push({ type: 'connect', destination, hello });
    return HOLD;
  }

  function answer(bytes: Buffer): Answer {
    return { type: 'answer', reply: bytes };
  }

  function refuse(bytes: Buffer): Answer {
    refused += 1;
    if (refused < options.errorLimit) return answer(bytes);
    steps.push({ type: 'notice', text: 'too many commands were refused, closing', about: 'error-limit' });
    return { type: 'answer', reply: Buffer.concat([bytes, REPLIES.tooManyErrors]), end: true };
  }

  function end(last: Buffer | undefined, notice?: string): void {
    if (isOver) return;
    isOver = true;
    if (notice !== undefined) steps.push({ type: 'notice', text: notice });
    if (last !== undefined) steps.push({ type: 'to-client', bytes: last });
    steps.push({ type: 'end' });
  }

  function nextOfEnvelope(): RoutingStep<D> | undefined {
    const step = isOver ? undefined : envelope.next();
    if (step === undefined) {
      // Whatever the destination still does, it does not reply.
      if (isForwarded && !envelope.isBusy()) end(undefined);
      return steps.shift();
    }
    switch (step.type) {
      case 'to-client':
        lastCode = step.bytes.toString('latin1', 0, 3);
        return step;
      case 'invalid-reply':
        end(REPLIES.smtpdFailed, 'smtpd sent an invalid SMTP reply, closing');
        return steps.shift();
      case 'smtpd-closing':
        end(undefined);
        return steps.shift();
      case 'end-smtpd':
        isForwarded = true;
        if (current !== undefined && envelope.isBusy()) return step;
        end(undefined);
        return steps.shift();
      case 'end':
        isOver = true;
    }
    return step;
  }

  function settle(): void {
    awaited = undefined;
    envelope.resume();
  }

  return {
    fromClient: envelope.fromClient,
    fromSmtpd: envelope.fromSmtpd,
    clientEnded: envelope.clientEnded,
    smtpdEnded: (last) => {
      end(lastCode === '221' || lastCode === '421' ? undefined : last);
    },
    timedOut: () => end(REPLIES.tooSlow),
    connected: ({ code, texts: [first = '', ...extensions] }) => {
      const keywords = new Set(extensions.map(extensionKeyword));
      canPipeline = keywords.has('PIPELINING');
      if (only !== undefined) {
        offer = { code, texts: [first, ...extensions.filter((text) => !HIDDEN.has(extensionKeyword(text)))] };
      }
      current = awaited;
      settle();
    },
    refuse: (bytes) => {
      refusal = bytes;
      settle();
    },
    next: () => steps.shift() ?? nextOfEnvelope(),
    wantsClient: () => !isOver && envelope.wantsClient(),
    mayQuit: () => !envelope.isBusy() && lastCode !== '221',
  };
}

/** What a destination offers, and not to the client. */
const HIDDEN: ReadonlySet<string> = new Set([
  'STARTTLS',
  'AUTH',
  'XCLIENT',
  'XFORWARD',
  'PIPECONNECT',
  'X_PIPE_CONNECT',
]);

/** Commands that change what the destination knows of the client. */
const REFUSED: ReadonlySet<string> = new Set(['XCLIENT', 'XFORWARD']);

/** What is passed by a route, besides a transaction. SAML, for example, would begin one without a route. */
const PASSED: ReadonlySet<string> = new Set(['NOOP', 'QUIT', 'VRFY', 'EXPN', 'HELP']);

/** The argument of BDAT (RFC 3030 section 2). Sizes beyond 2^31 are different ones for some servers. */
const CHUNK = /^(?:0|[1-9]\d{0,8})(?: +LAST)?$/i;

const REFUSES_DATA = (code: number): boolean => code !== 354;
const REFUSES_CHUNK = (code: number): boolean => code >= 300;

function reply(code: number, texts: readonly string[]): Buffer {
  return formatReply({ code, texts });
}
