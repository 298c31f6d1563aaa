import { createLineReader, LINE_LIMIT } from './line.ts';
import { parseReplyLine, type ReplyLine, replyLineText } from './reply.ts';

/** A complete SMTP reply (RFC 5321 section 4.2). */
export interface Reply {
  /** The three digits, 200 to 599. */
  readonly code: number;
  /** The text of each line, one or more. */
  readonly texts: readonly string[];
}

/** What a reply reader gives. */
export type ReadReply =
  | { readonly type: 'reply'; readonly reply: Reply }
  /** Nothing more can be read, for this reason. */
  | { readonly type: 'fault'; readonly why: string };

/** Takes bytes as they arrive and gives complete replies. */
export interface ReplyReader {
  /** Adds bytes that have arrived. They are copied. */
  push(bytes: Uint8Array): void;
  /** The next complete reply; undefined if there is none yet. */
  next(): ReadReply | undefined;
  /** The bytes after the last reply that was given. */
  rest(): Buffer;
}

/** The longest reply that is accepted, in octets with its line endings. */
export const REPLY_LIMIT = 65536;

const TOO_LONG: ReadReply = { type: 'fault', why: 'SMTP reply too long' };

/**
 * Creates a reader of complete replies, for code that needs a whole reply before it continues. The dialogue,
 * which passes replies on, reads lines instead.
 *
 * Memory: at most `REPLY_LIMIT` and the largest single `push`.
 */
export function createReplyReader(): ReplyReader {
  // Without a limit of its own it discards nothing: what follows a reply is not necessarily a line.
  const lines = createLineReader(Number.POSITIVE_INFINITY);
  let code: number | undefined;
  let texts: string[] = [];
  /** How many octets have arrived since the last reply that was given. */
  let size = 0;

  /** The reply that the line completes; undefined if it is not the last one of a reply. */
  function add({ code: lineCode, text, last }: ReplyLine): Reply | undefined {
    code = lineCode;
    texts.push(text);
    if (!last) return undefined;
    const reply = { code, texts };
    code = undefined;
    texts = [];
    size = lines.rest().length;
    return reply;
  }

  function next(): ReadReply | undefined {
    for (let line = lines.peek(); line !== undefined; line = lines.peek()) {
      const before = lines.rest().length;
      lines.drop();
      const after = lines.rest().length;
      // Checked at each line, so that it does not depend on how the reply arrives.
      if (size - after > REPLY_LIMIT) return TOO_LONG;
      const isValid = line.fault === undefined && before - after <= LINE_LIMIT;
      const parsed = isValid ? parseReplyLine(line.text) : undefined;
      if (parsed === undefined || parsed.code !== (code ?? parsed.code)) {
        return { type: 'fault', why: 'invalid SMTP reply' };
      }
      const reply = add(parsed);
      if (reply !== undefined) return { type: 'reply', reply };
    }
    return size > REPLY_LIMIT ? TOO_LONG : undefined;
  }

  return {
    push: (bytes) => {
      size += bytes.length;
      lines.push(bytes);
    },
    next,
    rest: lines.rest,
  };
}

/** Formats a reply, with CRLF after each line. */
export function formatReply({ code, texts }: Reply): Buffer {
  const last = texts.length - 1;
  const lines = texts.map((text, index) => replyLineText({ code, last: index === last, text }));
  return Buffer.from(lines.join(''), 'latin1');
}

/** Whether a reply accepts a command (RFC 5321 section 4.2.1): its code begins with 2. */
export function isPositive({ code }: Reply): boolean {
  return code < 300;
}
