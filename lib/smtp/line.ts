/**
 * Splits a stream of bytes into lines, in bounded memory.
 *
 * A line ends with LF. A CR before it is part of the line ending and is optional: people type into netcat, and
 * home-made servers print "\n". Callers that forward a line write it with CRLF, so that no two programs of a
 * chain disagree about where a line ends.
 */

const LF = 0x0a;
const CR = 0x0d;
const NUL = 0x00;

const NOTHING: Buffer = Buffer.alloc(0);

/**
 * The longest line that is accepted, in octets with its CRLF: what RFC 4954 section 4 requires of a server for
 * AUTH, and more than any other command needs (RFC 5321 section 4.5.3.1 requires 512).
 */
export const LINE_LIMIT = 12288;

/** One line of a stream. */
export interface Line {
  /** The line without its line ending. Empty if `fault` is `too-long`: the octets were discarded. */
  readonly text: Buffer;
  /** Why the line must not be forwarded: too long, or a bare CR or a NUL in it; undefined for a valid line. */
  readonly fault: 'too-long' | 'control' | undefined;
}

/** Takes bytes as they arrive and gives lines. */
export interface LineReader {
  /** Adds bytes that have arrived. They are copied, so the caller may reuse its buffer. */
  push(bytes: Uint8Array): void;
  /** The first complete line, which remains until `drop`; undefined if there is none yet. */
  peek(): Line | undefined;
  /** Discards the line that `peek` gives. */
  drop(): void;
  /** Discards the line that `peek` gives and the next `count` octets, including those that have not arrived. */
  skip(count: number): void;
  /** Discards everything up to now, and the rest of a line of which only a part has arrived. */
  clear(): void;
  /** True if bytes follow the line that `peek` gives. */
  hasMore(): boolean;
  /** Everything pushed and not discarded, including the line that `peek` gives. */
  rest(): Buffer;
}

/**
 * Creates a line reader.
 *
 * Memory: at most `limit` octets plus the largest single `push`; `limit` when there is no complete line.
 *
 * @param limit the longest line in octets, with its line ending. A longer line is not kept; once its end has
 * arrived it is given as a line with the fault `too-long`.
 *
 * @example
 * ```ts
 * const reader = createLineReader();
 * reader.push(Buffer.from('NOOP\r\nMAIL FR'));
 * reader.peek(); // => { text: Buffer.from('NOOP'), fault: undefined }
 * reader.drop();
 * reader.peek(); // => undefined
 * reader.rest(); // => Buffer.from('MAIL FR')
 * ```
 */
export function createLineReader(limit: number = LINE_LIMIT): LineReader {
  let pending = NOTHING;
  /** The octets of `pending` known to hold no LF: a line that arrives in pieces is searched once. */
  let searched = 0;
  let overlong = false;
  let toSkip = 0;
  /** Everything up to the next LF is to be discarded. */
  let clearing = false;
  /** The length of the first line in `pending`, with its line ending; 0 if it is incomplete. */
  let length = 0;

  function push(bytes: Uint8Array): void {
    const skipped = Math.min(toSkip, bytes.length);
    toSkip -= skipped;
    let rest = bytes.subarray(skipped);
    // The rest of a line that is discarded is not copied.
    if (length === 0 && (clearing || overlong)) {
      const end = rest.indexOf(LF);
      if (end < 0) return;
      rest = rest.subarray(clearing ? end + 1 : end);
      clearing = false;
    }
    pending = pending.length === 0 ? Buffer.from(rest) : Buffer.concat([pending, rest]);
    findEnd();
  }

  function findEnd(): void {
    length = pending.indexOf(LF, searched) + 1;
    searched = length === 0 ? pending.length : 0;
    if (length > 0) return;
    if (pending.length >= limit) {
      overlong = true;
      pending = NOTHING;
      searched = 0;
    } else if (pending.length === 0) {
      // An empty part of a Buffer keeps the whole pool that it is from in memory.
      pending = NOTHING;
    } else if (pending.buffer.byteLength > limit) {
      // The lines before it, which were dropped, are in the same memory.
      pending = Buffer.from(pending);
    }
  }

  function peek(): Line | undefined {
    if (length === 0) return undefined;
    if (overlong || length > limit) return { text: NOTHING, fault: 'too-long' };
    const end = length > 1 && pending[length - 2] === CR ? length - 2 : length - 1;
    const text = pending.subarray(0, end);
    return { text, fault: text.includes(CR) || text.includes(NUL) ? 'control' : undefined };
  }

  function drop(): void {
    pending = pending.subarray(length);
    overlong = false;
    findEnd();
  }

  function skip(count: number): void {
    const all = length + count;
    const skipped = Math.min(all, pending.length);
    toSkip = all - skipped;
    pending = pending.subarray(skipped);
    searched = 0;
    findEnd();
  }

  function clear(): void {
    clearing = overlong || (pending.length > 0 && pending[pending.length - 1] !== LF);
    pending = NOTHING;
    overlong = false;
    searched = 0;
    length = 0;
  }

  return { push, peek, drop, skip, clear, hasMore: () => pending.length > length, rest: () => pending };
}
