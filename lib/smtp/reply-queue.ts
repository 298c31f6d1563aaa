import { createLineReader } from './line.ts';
import { parseReplyLine } from './reply.ts';
import { REPLY_LIMIT, type Reply } from './reply-reader.ts';

/** A reply of smtpd that has not arrived. */
export interface ExpectedReply {
  /** Whether it is for the client. */
  readonly isPassed: boolean;
  /** How many replies there will be; called when the first one has arrived. One by default. */
  count?(): number;
  /** Whether a reply may have this code; any may by default. */
  accepts?(code: number): boolean;
  /** Called with the text of each line. */
  line?(text: string): void;
  /** Called with the last of them. Without `isPassed` it has its text. */
  ended(reply: Reply): void;
}

/** What a reply queue gives. */
export type QueuedReply =
  /** For the client: a reply in place of smtpd, or a line of smtpd's. */
  | { readonly type: 'to-client'; readonly bytes: Buffer }
  /** smtpd has sent what is not an SMTP reply, is too long, or was not expected. Nothing follows. */
  | { readonly type: 'invalid-reply' }
  /** smtpd has sent a refusal that was not expected, which the client has: it ends the session. Nothing follows. */
  | { readonly type: 'smtpd-closing' };

/** Puts the replies to a client's commands in the order of the commands. */
export interface ReplyQueue {
  /** The next reply is this one. */
  answer(reply: Buffer): void;
  /** The next reply is one of smtpd. */
  expect(reply: ExpectedReply): void;
  /**
   * Takes back the last reply of smtpd that is expected, if it is the last of all and has not begun.
   *
   * @returns how many replies are missing then; 0 if it was not taken back.
   */
  withdraw(): number;
  /** Takes bytes from smtpd. They are copied. */
  fromSmtpd(bytes: Uint8Array): void;
  /** The next line for the client, or the next reply; undefined when there is none until more input arrives. */
  next(): QueuedReply | undefined;
  /** How many replies the client awaits. */
  size(): number;
  /** Whether a reply of smtpd is among them. */
  isExpecting(): boolean;
}

/**
 * The lowest code of a reply that needs no command: the server closes the connection. It should be 421 (RFC 5321 section
 * 3.8); qmail-smtpd replies 451 to a client that is too slow.
 */
const REFUSAL = 400;

/**
 * Creates a reply queue. Of the replies of smtpd that are not expected only a refusal is for the client, and nothing follows
 * it: the client may take it for the reply to its next command, which is refused then.
 *
 * Memory: a line of smtpd, the replies that were put in, whose number the caller bounds, and one reply that is not passed,
 * of at most `REPLY_LIMIT`.
 */
export function createReplyQueue(): ReplyQueue {
  const smtpd = createLineReader();
  const queue: (ExpectedReply | Buffer)[] = [];
  let expecting = 0;
  /** The reply of smtpd that has begun. */
  let begun:
    | { readonly code: number; readonly texts: string[]; readonly expected: ExpectedReply | undefined }
    | undefined;
  /** How many replies are to come of those that are expected as one; 0 before the first. */
  let remaining = 0;
  /** How many octets of text a reply that is not passed has so far. */
  let textLength = 0;
  /** smtpd has sent a refusal that was not expected. */
  let hasClosed = false;
  let isBroken = false;

  /** @returns what is for the client, if anything. */
  function handleLine(): QueuedReply | undefined {
    const line = smtpd.peek();
    if (line === undefined) return undefined;
    const [first] = queue;
    const next = Buffer.isBuffer(first) ? undefined : first;
    const expected = begun === undefined ? next : begun.expected;
    const isPassed = expected?.isPassed !== false;
    const parsed = line.fault === undefined ? parseReplyLine(line.text) : undefined;
    textLength = isPassed ? 0 : textLength + line.text.length;
    if (parsed === undefined || parsed.code !== (begun?.code ?? parsed.code) || textLength > REPLY_LIMIT) {
      return fail();
    }
    if (expected === undefined ? parsed.code < REFUSAL : expected.accepts?.(parsed.code) === false) {
      return fail();
    }
    const bytes = Buffer.concat([line.text, CRLF]);
    smtpd.drop();
    begun ??= { code: parsed.code, texts: [], expected };
    if (!isPassed) begun.texts.push(parsed.text);
    expected?.line?.(parsed.text);
    if (parsed.last) endReply(expected, begun);
    return isPassed ? { type: 'to-client', bytes } : undefined;
  }

  function fail(): QueuedReply {
    isBroken = true;
    return { type: 'invalid-reply' };
  }

  function endReply(expected: ExpectedReply | undefined, reply: Reply): void {
    begun = undefined;
    textLength = 0;
    if (expected === undefined) {
      hasClosed = true;
      return;
    }
    if (remaining === 0) remaining = expected.count?.() ?? 1;
    remaining -= 1;
    if (remaining > 0) return;
    queue.shift();
    expecting -= 1;
    expected.ended(reply);
  }

  return {
    answer: (reply) => void queue.push(reply),
    expect: (reply) => {
      expecting += 1;
      queue.push(reply);
    },
    withdraw: () => {
      const last = queue.at(-1);
      const isFirst = queue.length === 1;
      if (last === undefined || Buffer.isBuffer(last) || (isFirst && begun !== undefined)) return 0;
      const missing = (isFirst ? remaining : 0) || (last.count?.() ?? 1);
      queue.pop();
      expecting -= 1;
      if (isFirst) remaining = 0;
      return missing;
    },
    fromSmtpd: smtpd.push,
    next: () => {
      while (!isBroken) {
        if (hasClosed) {
          isBroken = true;
          return { type: 'smtpd-closing' };
        }
        const [first] = queue;
        if (begun === undefined && Buffer.isBuffer(first)) {
          queue.shift();
          return { type: 'to-client', bytes: first };
        }
        if (smtpd.peek() === undefined) return undefined;
        const reply = handleLine();
        if (reply !== undefined) return reply;
      }
      return undefined;
    },
    size: () => queue.length,
    isExpecting: () => expecting > 0,
  };
}

const CRLF = Buffer.from('\r\n');
