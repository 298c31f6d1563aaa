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

/** Dots are allowed anywhere, against the RFC: some providers assign such addresses. */
const WORD = "[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+";
const QUOTED = '"(?:[ !#-\\[\\]-~]|\\\\[ -~])+"';
const DOMAIN = '[A-Za-z0-9._-]+';
const LITERAL = '\\[[!-Z^-~]+\\]';

/** Groups: the mailbox, its local part, its domain. A source route may precede it (RFC 5321 appendix C). */
const PATH = new RegExp(
  `^<(?:(?:@${DOMAIN}(?:,@${DOMAIN})*:)?((${WORD}|${QUOTED})(?:@(${DOMAIN}|${LITERAL}))?))?>`,
);

const PARAMETER = /^([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?$/;

/**
 * Parses the argument of MAIL or RCPT (RFC 5321 sections 4.1.1.2, 4.1.1.3 and 4.1.2).
 *
 * Source routes are accepted and ignored (section 3.6.1). Only the mailbox Postmaster needs no domain.
 *
 * @param argument what follows the verb; a mailbox must be printable ASCII.
 * @param word the word before the colon.
 */
export function parsePath(argument: string, word: 'FROM' | 'TO'): PathArgument | PathFault {
  const [prefix] = /^[A-Za-z]+: *(?=<)/.exec(argument) ?? [];
  if (prefix?.split(':')[0]?.toUpperCase() !== word) return 'no-path';
  const path = PATH.exec(argument.slice(prefix.length));
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
