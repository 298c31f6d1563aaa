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

function view(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
