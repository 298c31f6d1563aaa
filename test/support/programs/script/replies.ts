/** The reply of an ordinary smtpd to a command, as actions. */
export function usualReply(verb: string, argument: string): string {
  if (verb === 'BDAT') return `digest ${argument.split(' ')[0]}`;
  return REPLIES.get(verb) ?? 'line 502 5.5.1 Unknown command';
}

const REPLIES: ReadonlyMap<string, string> = new Map([
  ['EHLO', 'line 250-smtpd-script; line 250-8BITMIME; line 250 AUTH LOGIN'],
  ['HELO', 'line 250 smtpd-script'],
  ['NOOP', 'line 250 2.0.0 Ok'],
  ['RSET', 'line 250 2.0.0 Reset'],
  ['MAIL', 'line 250 2.1.0 Sender ok'],
  ['RCPT', 'line 250 2.1.5 Recipient ok'],
  ['AUTH', 'line 235 2.7.0 Welcome'],
  ['DATA', 'line 354 Go ahead; data'],
  ['HELP', 'line 214-Line one; line 214 Line two'],
  ['QUIT', 'line 221 2.0.0 Bye; exit 0'],
]);
