/**
 * The text of a message after DATA (RFC 5321 section 4.5.2).
 *
 * Only CRLF ends a line, and only CRLF.CRLF ends the message. With servers that accept LF.LF or LF.CRLF as the
 * end, behind relays that pass them on, a sender could make one message two and forge the second one (SMTP
 * smuggling, 2023).
 */

const CR = 0x0d;
const LF = 0x0a;
const NUL = 0x00;
const DOT = 0x2e;

/** A part of a message, decoded. */
export interface DataPiece {
  /** The text to store: lines end with LF, and the dots added for transparency are removed. */
  readonly text: Buffer;
  /** How many octets were consumed: all, unless the message ends within them. */
  readonly consumed: number;
  /** True at the end of the message. */
  readonly ended: boolean;
}

/** Decodes one message. */
export interface DataReader {
  /** Decodes the next octets, in place: the text is never longer than they are. */
  read(octets: Buffer): DataPiece;
  /** The size so far, as RFC 1870 counts it: CRLF is two octets, and a dot added for transparency is none. */
  size(): number;
  /** True after a NUL or a bare CR, which are not allowed in text (RFC 5321 section 2.3.8). */
  isInvalid(): boolean;
}

/** What precedes the next octet: a line start, a dot at a line start, that dot and CR, text, or CR. */
type Before = 'start' | 'dot' | 'dot-cr' | 'text' | 'cr';

/** Creates a decoder for one message. */
export function createDataReader(): DataReader {
  let before: Before = 'start';
  let size = 0;
  let invalid = false;

  function read(octets: Buffer): DataPiece {
    let at = 0;
    let length = 0;
    while (at < octets.length) {
      // Fast path: most octets are text, and the cases below cost four times as much for each.
      if (before === 'text') {
        const start = at;
        while (at < octets.length && octets[at] !== CR) octets[length++] = octets[at++] ?? NUL;
        size += at - start;
        if (at === octets.length) break;
      }
      const octet = octets[at++];
      if (octet === LF && before === 'dot-cr') return piece(octets.subarray(0, length), at, true);
      if (octet === LF && before === 'cr') {
        octets[length++] = LF;
        size += 2;
        before = 'start';
        continue;
      }
      if (before === 'cr' || before === 'dot-cr') invalid = true;
      if (octet === CR) before = before === 'dot' ? 'dot-cr' : 'cr';
      else if (octet === DOT && before === 'start') before = 'dot';
      else {
        at -= 1;
        before = 'text';
      }
    }
    return piece(octets.subarray(0, length), at, false);
  }

  function piece(text: Buffer, consumed: number, ended: boolean): DataPiece {
    if (text.includes(NUL)) invalid = true;
    return { text, consumed, ended };
  }

  return { read, size: () => size, isInvalid: () => invalid };
}
