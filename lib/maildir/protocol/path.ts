/** What stands behind MAIL or RCPT, taken apart. */
export interface PathArgument {
  /** The mailbox as it was written, quotes included, without brackets and source route; '' for `<>`. */
  readonly mailbox: string;
  /** The parameters behind it, by keyword in upper case; '' where one has no value. */
  readonly parameters: ReadonlyMap<string, string>;
}

/** Why an argument was not understood: it is no path at all, no mailbox, or has bad parameters. */
export type PathFault = 'no-path' | 'no-mailbox' | 'bad-parameters';

/** The longest path that is taken, in octets with its brackets (RFC 5321 section 4.5.3.1.3). */
const PATH_LIMIT = 256;

/** Dots may stand anywhere: telephone companies give out such addresses, and they hurt nobody here. */
const WORD = "[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+";
const QUOTED = '"(?:[ !#-\\[\\]-~]|\\\\[ -~])+"';
const DOMAIN = '[A-Za-z0-9._-]+';
const LITERAL = '\\[[!-Z^-~]+\\]';

/** Groups: the mailbox, its local part, its domain. A source route stands before it (RFC 5321 appendix C). */
const PATH = new RegExp(
  `^<(?:(?:@${DOMAIN}(?:,@${DOMAIN})*:)?((${WORD}|${QUOTED})(?:@(${DOMAIN}|${LITERAL}))?))?>`,
);

const PARAMETER = /^([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?$/;

/**
 * Takes the argument of MAIL or RCPT apart (RFC 5321 sections 4.1.1.2, 4.1.1.3 and 4.1.2).
 *
 * Source routes are taken and ignored, as section 3.6.1 has it. Of all mailboxes, only Postmaster needs no
 * domain.
 *
 * @param argument what stands behind the verb; of a mailbox, only printable ASCII is taken.
 * @param word what must stand before the colon, `FROM` or `TO`.
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
