import { extensionKeyword, type ReplyLine } from './reply.ts';

/** What may be offered in cleartext, and what is to be reported. */
export interface EhloReplyOptions {
  /** AUTH is kept in the reply. */
  readonly authAllowed: boolean;
  /** Called at the first STARTTLS that smtpd offers itself, once. */
  readonly starttlsOffered: () => void;
}

/**
 * Creates the function that rewrites the 250 replies to EHLO (RFC 5321 section 4.1.1.1) line by line.
 *
 * STARTTLS appears in a rewritten reply once, as the last line, and AUTH only where it may be used. The first line
 * names the host and is not an extension, whatever its text.
 *
 * @returns takes a line, and whether it is the first of its reply, and gives the lines to send in its place: none,
 * one or two.
 */
export function createEhloReplyRewriter(
  options: EhloReplyOptions,
): (line: ReplyLine, first: boolean) => readonly ReplyLine[] {
  let offerReported = false;

  function isOffered(keyword: string): boolean {
    if (keyword === 'AUTH') return options.authAllowed;
    if (keyword !== 'STARTTLS') return true;
    if (!offerReported) {
      offerReported = true;
      options.starttlsOffered();
    }
    return false;
  }

  return (line, first) => {
    const lines: ReplyLine[] = [];
    if (first || isOffered(extensionKeyword(line.text)))
      lines.push({ code: line.code, last: false, text: line.text });
    if (line.last) lines.push({ code: line.code, last: true, text: 'STARTTLS' });
    return lines;
  };
}
