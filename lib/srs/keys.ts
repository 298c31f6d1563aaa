/** The keys in a file of keys. */
export interface SrsKeys {
  readonly keys: readonly Buffer[];
  /** How many lines the file has, comments and empty ones included. */
  readonly lines: number;
}

/**
 * Parses a file of keys: one a line, without the white space around it. Empty lines, and those that begin with "#", are
 * ignored. Keys are octets.
 *
 * @param content the octets of the file.
 *
 * @example
 * ```ts
 * const { keys, lines } = parseSrsKeys(Buffer.from('# of 2026\nfirst\n\nsecond\n'));
 * keys.map(String); // => ['first', 'second']
 * lines; // => 4
 * ```
 */
export function parseSrsKeys(content: Buffer): SrsKeys {
  const lines = content.toString('latin1').split('\n');
  // Behind the last line feed there is no line.
  if (lines.at(-1) === '') lines.pop();
  const keys = lines
    .map((line) => line.replace(/^[ \t]+|[ \t\r]+$/g, ''))
    .filter((line) => line !== '' && !line.startsWith('#'));
  return { keys: keys.map((key) => Buffer.from(key, 'latin1')), lines: lines.length };
}
