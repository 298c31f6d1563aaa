/** The argument of MAIL or RCPT, parsed. */
export interface PathArgument {
  /** The mailbox as received, with its quotes, without angle brackets and source route; '' for `<>`. */
  readonly mailbox: string;
  /** The parameters by keyword in upper case; '' for one without a value. */
  readonly parameters: ReadonlyMap<string, string>;
}

/** Why an argument is invalid: no `FROM:<` or `TO:<`, an invalid mailbox, or malformed parameters. */
export type PathFault = 'no-path' | 'no-mailbox' | 'bad-parameters';

/** The maximum length of a path, in octets with its angle brackets (RFC 5321 section 4.5.3.1.3). */
const PATH_LIMIT = 256;

/**
 * A path. Groups: the mailbox, its local part, its domain. A source route may precede it (RFC 5321 appendix C). Dots are
 * allowed anywhere, against the RFC: some providers assign such addresses.
 *
 * @param more what is allowed besides ASCII.
 */
function pathWith(more: string): RegExp {
  const word = `[A-Za-z0-9.!#$%&'*+/=?^_\`{|}~${more}-]+`;
  const quoted = `"(?:[ !#-\\[\\]-~${more}]|\\\\[ -~${more}])+"`;
  const domain = `[A-Za-z0-9._${more}-]+`;
  const literal = '\\[[!-Z^-~]+\\]';
  const route = `(?:@${domain}(?:,@${domain})*:)?`;
  return new RegExp(`^<(?:${route}((${word}|${quoted})(?:@(${domain}|${literal}))?))?>`);
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
  const [prefix] = /^[A-Za-z]+: *(?=<)/.exec(argument) ?? [];
  if (prefix?.split(':')[0]?.toUpperCase() !== word) return 'no-path';
  const path = (isUtf8 ? UTF8_PATH : PATH).exec(argument.slice(prefix.length));
  if (path === null || path[0].length > PATH_LIMIT) return 'no-mailbox';
  const [whole, mailbox = '', local = '', domain] = path;
  if (mailbox !== '' && domain === undefined && local.toUpperCase() !== 'POSTMASTER') return 'no-mailbox';
  const parameters = parseParameters(argument.slice(prefix.length + whole.length));
  return parameters === undefined ? 'bad-parameters' : { mailbox, parameters };
}

function parseParameters(text: string): ReadonlyMap<string, string> | undefined {
  if (text !== '' && !text.startsWith(' ')) return undefined;
  const parameters = new Map<string, string>();
  for (const word of text.split(' ')) {
    if (word === '') continue;
    const [, keyword, value = ''] = PARAMETER.exec(word) ?? [];
    if (keyword === undefined || parameters.has(keyword.toUpperCase())) return undefined;
    parameters.set(keyword.toUpperCase(), value);
  }
  return parameters;
}
