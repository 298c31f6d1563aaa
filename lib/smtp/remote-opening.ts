/**
 * The opening with a remote server: like opening.ts, and TLS and AUTH too, where they are wanted.
 *
 *   it awaits          and the reply is                             then
 *   -----------------  -------------------------------------------  --------------------------------
 *   the greeting       not positive                                 outcome `refused`
 *                      positive                                     EHLO is sent
 *   reply to EHLO      5xx, HELO is allowed here                    HELO is sent
 *                      not positive                                 outcome `refused`
 *     in cleartext     positive, STARTTLS is wanted and offered     STARTTLS is sent
 *                      positive, STARTTLS is required, not offered  outcome `no-tls`
 *     in TLS verified  positive, there are credentials              AUTH is sent
 *                      the same, no mechanism of ours is offered    outcome `no-auth`
 *     else             positive                                     outcome `ready`
 *   reply to HELO      as to EHLO; there are no extensions
 *   reply to STARTTLS  positive, nothing behind it                  step `start-tls`, then EHLO is sent again
 *                      positive, more behind it                     outcome `broken`
 *                      421, or any other, STARTTLS is required      outcome `no-tls`
 *                      any other                                    as after the reply to EHLO
 *   reply to AUTH      334, the mechanism has more to send          the next line is sent
 *                      positive                                     outcome `ready`
 *                      any other                                    outcome `auth-refused`
 *   any                no SMTP reply, or too long                   outcome `broken`
 *                      the end of the server's output               outcome `broken`, without a reason
 *
 * HELO is allowed unless STARTTLS is required and has not been done. Positive codes begin with 2.
 *
 * Between `start-tls` and `tlsStarted` no byte may arrive: what an attacker puts behind the reply to STARTTLS in
 * cleartext must not be taken for a reply in TLS (CVE-2011-0411 and its like, for clients). Credentials are sent only
 * after `tlsStarted` has stated that the server is verified.
 *
 * It does no I/O and has no timers.
 */

import { type AuthExchange, type Credentials, chooseAuth, type HmacMd5 } from './auth.ts';
import { extensionKeyword } from './reply.ts';
import { createReplyReader, isPositive, type Reply } from './reply-reader.ts';

/** How an opening ended. */
export type RemoteOutcome =
  /** The server awaits the client's next command. `hello` is its last reply to EHLO, HELO or LHLO. */
  | { readonly type: 'ready'; readonly hello: Reply; readonly isAuthenticated: boolean }
  /** The server refuses service. */
  | { readonly type: 'refused'; readonly reply: Reply }
  /** STARTTLS is refused with this reply, and required, or the server closes; undefined if it is not offered. */
  | { readonly type: 'no-tls'; readonly reply: Reply | undefined }
  /** There are credentials, and none of our mechanisms is offered. */
  | { readonly type: 'no-auth' }
  /** The server refuses the credentials. The reply has nothing of them. */
  | { readonly type: 'auth-refused'; readonly reply: Reply }
  /** The session cannot go on, for this reason; undefined if the server has ended it. */
  | { readonly type: 'broken'; readonly why: string | undefined };

type NoTls = Extract<RemoteOutcome, { readonly type: 'no-tls' }>;

/** What the driver is to do next. The outcome is the last step. */
export type RemoteStep =
  | { readonly type: 'to-server'; readonly bytes: Buffer }
  /** A handshake is due. `tlsStarted` follows, unless it fails. */
  | { readonly type: 'start-tls' }
  | { readonly type: 'outcome'; readonly outcome: RemoteOutcome };

/** The settings of an opening. */
export interface RemoteOpeningOptions {
  /** EHLO for SMTP; LHLO for LMTP (RFC 2033), where there is no HELO. */
  readonly verb: 'EHLO' | 'LHLO';
  /** The name after the verb. */
  readonly name: string;
  /** Without effect in TLS. */
  readonly starttls: 'never' | 'if-offered' | 'required';
  /** Sent in TLS with a verified server only; undefined for no AUTH. */
  readonly credentials: Credentials | undefined;
  readonly hmacMd5: HmacMd5;
}

/** The opening of one session. */
export interface RemoteOpening {
  /** Takes bytes from the server. */
  fromServer(bytes: Uint8Array): void;
  /** The server will send no more. */
  serverEnded(): void;
  /**
   * TLS has started: after `start-tls`, or before anything has arrived.
   *
   * @param isVerified whether the server is the one that was meant.
   */
  tlsStarted(isVerified: boolean): void;
  /** The next step; undefined when there is none until more input arrives. */
  next(): RemoteStep | undefined;
  /** What the server has sent after the last reply; valid after the outcome. */
  rest(): Buffer;
}

/** What the script waits for: the reply to a line, if there is one; or TLS. */
type Wait = { readonly type: 'reply'; readonly line: string | undefined } | { readonly type: 'tls' };

/** The script of an opening. It is given the reply; for TLS, nothing of use. */
type Script<T> = Generator<Wait, T, Reply>;

/** Creates an opening. Memory: see `createReplyReader`. */
export function createRemoteOpening(options: RemoteOpeningOptions): RemoteOpening {
  let reader = createReplyReader();
  let tls: 'none' | 'due' | 'unverified' | 'verified' = 'none';
  let hasEnded = false;
  let isOver = false;
  const script = open();
  /** The next line, or TLS, is still to be passed to the driver. */
  let isNew = true;
  let current = script.next();

  function* open(): Script<RemoteOutcome> {
    const greeting = yield { type: 'reply', line: undefined };
    if (!isPositive(greeting)) return { type: 'refused', reply: greeting };
    let hello = yield* introduce();
    if (!isPositive(hello)) return { type: 'refused', reply: hello };
    if (tls === 'none' && options.starttls !== 'never') {
      const failure = yield* startTls(hello);
      if (failure !== undefined && (options.starttls === 'required' || isClosing(failure.reply)))
        return failure;
      if (failure === undefined) hello = yield* introduce();
      if (!isPositive(hello)) return { type: 'refused', reply: hello };
    }
    if (tls !== 'verified' || options.credentials === undefined) {
      return { type: 'ready', hello, isAuthenticated: false };
    }
    const exchange = chooseAuth(hello.texts.slice(1), options.credentials, options.hmacMd5);
    if (exchange === undefined) return { type: 'no-auth' };
    const reply = yield* authenticate(exchange, options.credentials.password);
    return isPositive(reply)
      ? { type: 'ready', hello, isAuthenticated: true }
      : { type: 'auth-refused', reply };
  }

  function* introduce(): Script<Reply> {
    const { verb, name } = options;
    const reply = yield { type: 'reply', line: `${verb} ${name}` };
    const mayUseHelo = verb === 'EHLO' && (tls !== 'none' || options.starttls !== 'required');
    return reply.code < 500 || !mayUseHelo ? reply : yield { type: 'reply', line: `HELO ${name}` };
  }

  /** @returns undefined when TLS has started. */
  function* startTls(hello: Reply): Script<NoTls | undefined> {
    const isOffered = hello.texts.slice(1).some((text) => extensionKeyword(text) === 'STARTTLS');
    if (!isOffered) return { type: 'no-tls', reply: undefined };
    const reply = yield { type: 'reply', line: 'STARTTLS' };
    if (!isPositive(reply)) return { type: 'no-tls', reply };
    tls = 'due';
    yield { type: 'tls' };
    return undefined;
  }

  function end(outcome: RemoteOutcome): RemoteStep {
    isOver = true;
    return { type: 'outcome', outcome };
  }

  function resume(reply: Reply): void {
    current = script.next(reply);
    isNew = true;
  }

  function next(): RemoteStep | undefined {
    while (!isOver) {
      if (current.done === true) return end(current.value);
      if (tls === 'due' && reader.rest().length > 0) return end({ type: 'broken', why: INJECTED });
      const wait = current.value;
      if (isNew) {
        isNew = false;
        const step = stepOf(wait);
        if (step !== undefined) return step;
      }
      if (wait.type === 'tls') return hasEnded ? end({ type: 'broken', why: undefined }) : undefined;
      const read = reader.next();
      if (read === undefined) return hasEnded ? end({ type: 'broken', why: undefined }) : undefined;
      if (read.type === 'fault') return end({ type: 'broken', why: read.why });
      resume(read.reply);
    }
    return undefined;
  }

  return {
    fromServer: (bytes) => reader.push(bytes),
    serverEnded: () => {
      hasEnded = true;
    },
    tlsStarted: (isVerified) => {
      const wasDue = tls === 'due';
      tls = isVerified ? 'verified' : 'unverified';
      // Nothing that was read in cleartext can be left in it.
      reader = createReplyReader();
      if (wasDue) resume(NO_REPLY);
    },
    next,
    rest: () => reader.rest(),
  };
}

const INJECTED = 'it sent cleartext data behind its reply to STARTTLS';

/** What the script is given when TLS has started. */
const NO_REPLY: Reply = { code: 220, texts: [] };

/** RFC 5321 section 3.8: the server closes the connection. */
function isClosing(reply: Reply | undefined): boolean {
  return reply?.code === 421;
}

/** Sends the lines of an exchange until its end or a reply that is not a challenge. @returns the last reply. */
function* authenticate(exchange: AuthExchange, password: string): Script<Reply> {
  const secrets = [Buffer.from(password, 'utf8').toString('latin1')];
  let reply: Reply = { code: CHALLENGE, texts: [] };
  while (reply.code === CHALLENGE) {
    const { done, value: line } = exchange.next(Buffer.from(reply.texts[0] ?? '', 'base64'));
    // The server asks for more than the mechanism has: a refusal.
    if (done === true) break;
    const [, response] = /^(?:AUTH \S+ )?(\S+)$/.exec(line) ?? [];
    if (response !== undefined) secrets.push(response);
    reply = yield { type: 'reply', line };
  }
  return { ...reply, texts: reply.texts.map((text) => withoutSecrets(text, secrets)) };
}

/** A server may repeat a command that it refuses, or the beginning of it, and replies are logged. */
function withoutSecrets(text: string, secrets: readonly string[]): string {
  return secrets
    .filter((secret) => secret.length >= SHORTEST_SECRET)
    .reduce((rest, secret) => rest.replaceAll(secret, HIDDEN), text)
    .replace(/[A-Za-z\d+/]{6,}/g, (part) =>
      secrets.some((secret) => secret.includes(part)) ? HIDDEN : part,
    );
}

const HIDDEN = '***';

/** Less than this, in octets, is in many a reply by chance. */
const SHORTEST_SECRET = 4;

/** RFC 4954 section 4. */
const CHALLENGE = 334;

function stepOf(wait: Wait): RemoteStep | undefined {
  if (wait.type === 'tls') return { type: 'start-tls' };
  if (wait.line === undefined) return undefined;
  return { type: 'to-server', bytes: Buffer.from(`${wait.line}\r\n`, 'latin1') };
}
