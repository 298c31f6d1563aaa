/** Finds the end of a message that DATA has announced. */
export interface MessageEnd {
  /**
   * Searches the next bytes of the message.
   *
   * @returns how many of them belong to it, its last line included; undefined if it goes on behind them.
   */
  find(bytes: Uint8Array): number | undefined;
}

const END = Buffer.from('\r\n.\r\n');
const CR = 0x0d;
const LF = 0x0a;
const DOT = 0x2e;
const CRLF = 2;

/**
 * Creates a search for the end of one message: a line of a single dot, in any pieces (RFC 5321 section 4.5.2). The CRLF
 * of the command counts as the end of the line before, for a message without a line. Only CRLF ends a line: a dot between
 * bare LFs is text here.
 *
 * @example
 * ```ts
 * const end = createMessageEnd();
 * end.find(Buffer.from('Hi.\r\n.')); // => undefined
 * end.find(Buffer.from('\r\nQUIT\r\n')); // => 2
 * ```
 */
export function createMessageEnd(): MessageEnd {
  /** How many octets of END the bytes so far end with. */
  let matched = CRLF;

  /** Continues the octets that match from piece to piece. */
  function continueMatch(octet: number | undefined): void {
    if (octet === END[matched]) matched += 1;
    else matched = octet === CR ? 1 : 0;
  }

  return {
    find: (bytes) => {
      let at = 0;
      while (matched > 0 && at < bytes.length) {
        continueMatch(bytes[at]);
        at += 1;
        if (matched === END.length) return at;
      }
      if (at === bytes.length) return undefined;
      const found = view(bytes).indexOf(END, at);
      if (found >= 0) return found + END.length;
      for (const octet of bytes.subarray(Math.max(at, bytes.length - END.length + 1))) continueMatch(octet);
      return undefined;
    },
  };
}

/** Passes a message up to the first CR or LF that is not part of CRLF. */
export interface NewlineFilter {
  /**
   * Takes the next bytes of the message, at least one.
   *
   * @returns what passes: of them, and of those before. A CR at the end waits; so does a dot that may be a line of its own:
   * some smtpds take it for the end of the message at the end of their input, too.
   */
  pass(bytes: Uint8Array): Uint8Array;
  /** Whether there was a bare CR or LF. Nothing passes from there on. */
  isClosed(): boolean;
}

/**
 * Creates a filter for one message.
 *
 * @example
 * ```ts
 * const filter = createNewlineFilter();
 * String(filter.pass(Buffer.from('Hi.\r'))); // => 'Hi.'
 * String(filter.pass(Buffer.from('\nHo\r\n.\nMAIL'))); // => '\r\nHo\r\n'
 * filter.isClosed(); // => true
 * ```
 */
export function createNewlineFilter(): NewlineFilter {
  let isClosed = false;
  let waiting = NOTHING;
  /** What waits is at the start of a line. */
  let isLineStart = true;

  return {
    pass: (bytes) => {
      if (isClosed) return NOTHING;
      const octets = waiting.length === 0 ? view(bytes) : Buffer.concat([waiting, bytes]);
      const bare = findBare(octets);
      isClosed = bare !== undefined;
      let end = bare ?? octets.length;
      if (!isClosed && octets[end - 1] === CR) end -= 1;
      if (octets[end - 1] === DOT && (end === 1 ? isLineStart : octets[end - 2] === LF)) end -= 1;
      if (end > 0) isLineStart = octets[end - 1] === LF;
      waiting = isClosed ? NOTHING : Buffer.from(octets.subarray(end));
      return octets.subarray(0, end);
    },
    isClosed: () => isClosed,
  };
}

/** @returns where the first bare CR or LF is; undefined without one. A CR at the end is none yet. */
function findBare(octets: Buffer): number | undefined {
  for (let at = 0; at < octets.length; ) {
    const cr = octets.indexOf(CR, at);
    const lf = octets.indexOf(LF, at);
    if (lf >= 0 && (cr < 0 || lf < cr)) return lf;
    if (cr >= 0 && cr !== octets.length - 1 && lf !== cr + 1) return cr;
    if (lf < 0) return undefined;
    at = lf + 1;
  }
  return undefined;
}

const NOTHING: Buffer = Buffer.alloc(0);

function view(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
