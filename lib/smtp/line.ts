/**
 * Lines out of a stream of bytes, in bounded memory.
 *
 * A line ends with LF. A CR before it belongs to the stopping, and its absence is forgiven: people type
 * into netcat, and home-made servers print "\n". Whoever passes a line on writes it with CRLF, so that
 * no two programs of a chain ever disagree about where a line ends.
 */

const LF = 0x0a;
const CR = 0x0d;
const NUL = 0x00;

const NOTHING: Buffer = Buffer.alloc(0);

/**
 * The longest line that is taken, in octets with its CRLF: what RFC 4954 section 4 asks a server to
 * take for AUTH, which is more than any other command may need (RFC 5321 section 4.5.3.1 asks for 512).
 */
export const LINE_LIMIT = 12288;

/** One line of a stream. */
export interface Line {
  /** The line without its stopping. Empty when `fault` is `too-long`: the octets are gone. */
  readonly text: Buffer;
  /** Why the line must not be passed on; undefined for a sound line. */
  readonly fault: 'too-long' | 'control' | undefined;
}

/** Takes bytes as they come and gives lines. */
export interface LineReader {
  /** Adds what arrived. The bytes are copied, so the caller may use its buffer again. */
  push(bytes: Uint8Array): void;
  /** The first complete line, which stays where it is until `drop`; undefined when there is none yet. */
  peek(): Line | undefined;
  /** Lets go of the line that `peek` gave. */
  drop(): void;
  /** Lets go of the line that `peek` gave and of `octets` octets behind it, those that have yet to come too. */
  skip(octets: number): void;
  /** Lets go of all that came, up to the end of the line that is on its way. */
  clear(): void;
  /** True when something stands behind the line that `peek` gives. */
  hasMore(): boolean;
  /** All that was pushed and not dropped, the line that `peek` gives included. */
  rest(): Buffer;
}

/**
 * Makes a reader of lines.
 *
 * Memory: never more than `limit` octets and the largest single `push`.
 *
 * @param limit the longest line in octets, with its stopping; a longer one is given as a line with the
 * fault `too-long` once its end has come, and is not kept meanwhile.
 */
export function createLineReader(limit: number = LINE_LIMIT): LineReader {
  let pending = NOTHING;
  /** How much of `pending` was searched for LF in vain: a line that trickles in is searched once. */
  let searched = 0;
  let overlong = false;
  let toSkip = 0;
  /** Everything up to the next LF is to be let go. */
  let clearing = false;
  /** The length of the first line in `pending`, with its stopping; 0 when it is not complete. */
  let length = 0;

  function push(bytes: Uint8Array): void {
    const skipped = Math.min(toSkip, bytes.length);
    toSkip -= skipped;
    let rest = bytes.subarray(skipped);
    // The rest of a line that nobody will see is not even copied.
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
    if (length === 0 && pending.length >= limit) {
      overlong = true;
      pending = NOTHING;
      searched = 0;
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

  function skip(octets: number): void {
    const all = length + octets;
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
