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

/** A command line taken apart. */
export interface Command {
  readonly kind: CommandKind;
  /** What follows the verb, without white space around it. */
  readonly argument: string;
}

/**
 * The verbs that the dialogue knows. All others are smtpd's business.
 *
 * The foreign ones are methods of HTTP (RFC 9110 section 9, and PRI of RFC 9113): no SMTP client ever
 * says them, a browser that was led to the SMTP port does.
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
 * Takes a command line apart (RFC 5321 section 4.1.1). Verbs are the same in upper and lower case.
 *
 * White space of any kind ends a verb, and before the verb it is passed over, because some servers read
 * it so: a line that smtpd would take for AUTH must not look like something else here.
 *
 * @param text the line without its stopping.
 */
export function parseCommand(text: Buffer): Command {
  const line = text.toString('latin1').trim();
  const end = line.search(/\s/);
  const verb = (end < 0 ? line : line.slice(0, end)).toUpperCase();
  return { kind: KINDS.get(verb) ?? 'other', argument: end < 0 ? '' : line.slice(end).trim() };
}

/**
 * The number of octets that follow a BDAT command (RFC 3030 section 2); 0 when its argument names none.
 *
 * @param argument what stands behind BDAT: a size and perhaps LAST.
 */
export function chunkSize(argument: string): number {
  const digits = /^\d+/.exec(argument)?.[0] ?? '0';
  return Math.min(Number(digits), Number.MAX_SAFE_INTEGER);
}
