/** The argument of MAIL or RCPT, parsed. */
export interface PathArgument {
  /** The mailbox as received, with its quotes, without angle brackets and source route; '' for `<>`. */
  readonly mailbox: string;
  /** The parameters by keyword in upper case; '' for one without a value. */
  readonly parameters: ReadonlyMap<string, string>;
}

/** Why an argument is invalid: no `FROM:<` or `TO:<`, an invalid mailbox, or malformed parameters. */
export type PathFault = 'no-path' | 'no-mailbox' | 'bad-parameters';

/** A path and what follows it, not parsed. */
export interface Path {
  /** See `PathArgument`. */
  readonly mailbox: string;
  /** The local part of the mailbox as received, with its quotes. */
  readonly local: string;
  /** Its domain or address literal; undefined if it has none. */
  readonly domain: string | undefined;
  /** Whether there was a source route, which is not in the mailbox. */
  readonly isRouted: boolean;
  /** What follows the path: nothing, or a space and parameters. */
  readonly rest: string;
}

/** The maximum length of a path, in octets with its angle brackets (RFC 5321 section 4.5.3.1.3). */
const PATH_LIMIT = 256;

/** The characters of an atom. */
const ATOM = "A-Za-z0-9!#$%&'*+/=?^_`{|}~";

/** A local part that needs no quotes. */
const DOT_STRING = new RegExp(`^[${ATOM}\\x80-\\xff-]+(?:\\.[${ATOM}\\x80-\\xff-]+)*$`);

/**
 * A path. Groups: a source route (RFC 5321 appendix C), the mailbox, its local part, its domain. Dots are
 * allowed anywhere, against the RFC: some providers assign such addresses.
 *
 * @param more what is allowed besides ASCII.
 */
function pathWith(more: string): RegExp {
  const word = `[${ATOM}.${more}-]+`;
  const quoted = `"(?:[ !#-\\[\\]-~${more}]|\\\\[ -~${more}])+"`;
  const domain = `[A-Za-z0-9._${more}-]+`;
  const literal = '\\[[!-Z^-~]+\\]';
  const route = `(?:@${domain}(?:,@${domain})*:)?`;
  return new RegExp(`^<(?:(${route})((${word}|${quoted})(?:@(${domain}|${literal}))?))?>`);
}

const PATH = pathWith('');
/** UTF-8 as latin1. */
const UTF8_PATH = pathWith('\\x80-\\xff');

const PARAMETER = /^([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?$/;

/**
 * Parses the argument of MAIL or RCPT (RFC 5321 sections 4.1.1.2, 4.1.1.3 and 4.1.2).
 *
 * Source routes are accepted and ignored (section 3.6.1). Only the mailbox Postmaster needs no domain.
 *
 * @param argument what follows the verb, latin1.
 * @param word the word before the colon.
 * @param isUtf8 a mailbox may be UTF-8 (RFC 6531 section 3.3); otherwise it must be printable ASCII.
 */
export function parsePath(argument: string, word: 'FROM' | 'TO', isUtf8 = false): PathArgument | PathFault {
  const path = splitPath(argument, word, isUtf8);
  if (typeof path === 'string') return path;
  const { mailbox, local, domain, rest } = path;
  if (argument.indexOf('<') + PATH_LIMIT < argument.length - rest.length) return 'no-mailbox';
  if (mailbox !== '' && domain === undefined && local.toUpperCase() !== 'POSTMASTER') return 'no-mailbox';
  const parameters = parseParameters(rest);
  return parameters === undefined ? 'bad-parameters' : { mailbox, parameters };
}

/**
 * Splits the argument of MAIL or RCPT at the end of its path, whose length it does not check. Any mailbox may have no
 * domain. The parameters are as in `parsePath`.
 */
export function splitPath(argument: string, word: 'FROM' | 'TO', isUtf8 = false): Path | PathFault {
  const [prefix] = /^[A-Za-z]+: *(?=<)/.exec(argument) ?? [];
  if (prefix?.split(':')[0]?.toUpperCase() !== word) return 'no-path';
  const path = (isUtf8 ? UTF8_PATH : PATH).exec(argument.slice(prefix.length));
  if (path === null) return 'no-mailbox';
  const [whole, route = '', mailbox = '', local = '', domain] = path;
  const rest = argument.slice(prefix.length + whole.length);
  if (rest !== '' && !rest.startsWith(' ')) return 'bad-parameters';
  return { mailbox, local, domain, isRouted: route !== '', rest };
}

/**
 * Removes the quotes of a local part, and the backslashes in them (RFC 5321 section 4.1.2).
 *
 * @example
 * ```ts
 * unquoteLocal('"john \\"j\\" smith"'); // => 'john "j" smith'
 * unquoteLocal('john.smith'); // => 'john.smith'
 * ```
 */
export function unquoteLocal(local: string): string {
  return local.startsWith('"') ? local.slice(1, -1).replace(/\\(.)/gs, '$1') : local;
}

/**
 * Writes a local part with quotes, if it needs them (RFC 5321 section 4.1.2).
 *
 * @param local printable, without quotes; UTF-8 as latin1 needs none.
 *
 * @example
 * ```ts
 * quoteLocal('john "j" smith'); // => '"john \\"j\\" smith"'
 * quoteLocal('john.smith'); // => 'john.smith'
 * quoteLocal('john..smith'); // => '"john..smith"'
 * ```
 */
export function quoteLocal(local: string): string {
  return DOT_STRING.test(local) ? local : `"${local.replace(/["\\]/g, '\\$&')}"`;
}

function parseParameters(text: string): ReadonlyMap<string, string> | undefined {
  const parameters = new Map<string, string>();
  for (const word of text.split(' ')) {
    if (word === '') continue;
    const [, keyword, value = ''] = PARAMETER.exec(word) ?? [];
    if (keyword === undefined || parameters.has(keyword.toUpperCase())) return undefined;
    parameters.set(keyword.toUpperCase(), value);
  }
  return parameters;
}
