/** What the dialogue does with a command; see the table in dialogue.ts. */
export type CommandKind =
  | 'hello'
  | 'helo'
  | 'starttls'
  | 'mail'
  | 'auth'
  | 'early'
  | 'chunk'
  | 'foreign'
  | 'empty'
  | 'other';

/** A parsed command line. */
export interface Command {
  readonly kind: CommandKind;
  /** The verb in upper case; empty for an empty line. */
  readonly verb: string;
  /** The text after the verb, without surrounding white space. */
  readonly argument: string;
}

/**
 * The verbs that the dialogue handles itself. All others are forwarded to smtpd.
 *
 * The foreign ones are HTTP methods (RFC 9110 section 9, and PRI of RFC 9113). No SMTP client sends them;
 * a browser directed to the SMTP port does.
 */
const KINDS: ReadonlyMap<string, CommandKind> = new Map([
  ['', 'empty'],
  ['EHLO', 'hello'],
  ['LHLO', 'hello'],
  ['HELO', 'helo'],
  ['STARTTLS', 'starttls'],
  ['MAIL', 'mail'],
  ['AUTH', 'auth'],
  ['RCPT', 'early'],
  ['DATA', 'early'],
  ['BDAT', 'chunk'],
  ['CONNECT', 'foreign'],
  ['DELETE', 'foreign'],
  ['GET', 'foreign'],
  ['HEAD', 'foreign'],
  ['OPTIONS', 'foreign'],
  ['PATCH', 'foreign'],
  ['POST', 'foreign'],
  ['PRI', 'foreign'],
  ['PUT', 'foreign'],
  ['TRACE', 'foreign'],
]);

/**
 * Parses a command line (RFC 5321 section 4.1.1). Verbs are case-insensitive.
 *
 * White space of any kind ends a verb and is skipped before it, because some servers parse lines that way:
 * a line that smtpd takes for AUTH must not be another command here.
 *
 * @param text the line without its line ending.
 */
export function parseCommand(text: Buffer): Command {
  const line = text.toString('latin1').trim();
  const end = line.search(/\s/);
  const verb = (end < 0 ? line : line.slice(0, end)).toUpperCase();
  return { kind: KINDS.get(verb) ?? 'other', verb, argument: end < 0 ? '' : line.slice(end).trim() };
}

/**
 * The number of octets that follow a BDAT command (RFC 3030 section 2), at most `Number.MAX_SAFE_INTEGER`;
 * 0 if its argument has no size.
 *
 * @param argument the text after BDAT: a size, optionally followed by LAST.
 */
export function chunkSize(argument: string): number {
  const digits = /^\d+/.exec(argument)?.[0] ?? '0';
  return Math.min(Number(digits), Number.MAX_SAFE_INTEGER);
}

/** Whether the argument of BDAT has LAST: the chunk ends the message. */
export function isLastChunk(argument: string): boolean {
  return /\sLAST$/i.test(argument);
}

/** Sizes of this and more are different ones for some servers: Exim 4.96 reads them modulo 2^32. */
const CHUNK_LIMIT = 2 ** 31;

/**
 * Whether a line is BDAT as RFC 3030 section 2 has it, with one space or more and a size below 2 GiB: all servers read its
 * size alike. Others may read a different size in another form, or take it for another command.
 *
 * @param line without its line ending.
 */
export function isChunkCommand(line: string): boolean {
  const size = /^BDAT +(\d{1,15})(?: +LAST)? *$/i.exec(line)?.[1];
  return size !== undefined && Number(size) < CHUNK_LIMIT;
}
