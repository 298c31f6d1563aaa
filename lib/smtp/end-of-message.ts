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
  /** Takes the next bytes of the message, at least one. @returns what of them passes; a CR at their end passes later. */
  pass(bytes: Uint8Array): readonly Uint8Array[];
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
 * String(Buffer.concat(filter.pass(Buffer.from('\nHo\n.\n')))); // => '\r\nHo'
 * filter.isClosed(); // => true
 * ```
 */
export function createNewlineFilter(): NewlineFilter {
  let isClosed = false;
  let isAfterCr = false;

  /** @returns where the first bare CR or LF is; undefined without one. A CR at the end is none yet. */
  function findBare(octets: Buffer): number | undefined {
    if (isAfterCr && octets[0] !== LF) return 0;
    for (let at = isAfterCr ? 1 : 0; at < octets.length; ) {
      const cr = octets.indexOf(CR, at);
      const lf = octets.indexOf(LF, at);
      if (lf >= 0 && (cr < 0 || lf < cr)) return lf;
      if (cr >= 0 && cr !== octets.length - 1 && lf !== cr + 1) return cr;
      if (lf < 0) return undefined;
      at = lf + 1;
    }
    return undefined;
  }

  return {
    pass: (bytes) => {
      if (isClosed) return [];
      const octets = view(bytes);
      const bare = findBare(octets);
      const before = isAfterCr && bare !== 0 ? [CR_ALONE] : [];
      isClosed = bare !== undefined;
      isAfterCr = !isClosed && octets.at(-1) === CR;
      return [...before, octets.subarray(0, bare ?? octets.length - (isAfterCr ? 1 : 0))];
    },
    isClosed: () => isClosed,
  };
}

const CR_ALONE: Uint8Array = Buffer.from('\r');

function view(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
