/** The reply of an ordinary smtpd to a command, as actions. */
export function usualReply(verb: string): string {
  return REPLIES.get(verb) ?? 'say 502 5.5.1 Unknown command';
}

const REPLIES: ReadonlyMap<string, string> = new Map([
  ['EHLO', 'say 250-smtpd-script; say 250-8BITMIME; say 250 AUTH LOGIN'],
  ['HELO', 'say 250 smtpd-script'],
  ['NOOP', 'say 250 2.0.0 Ok'],
  ['RSET', 'say 250 2.0.0 Reset'],
  ['MAIL', 'say 250 2.1.0 Sender ok'],
  ['RCPT', 'say 250 2.1.5 Recipient ok'],
  ['AUTH', 'say 235 2.7.0 Welcome'],
  ['DATA', 'say 354 Go ahead; data'],
  ['HELP', 'say 214-Line one; say 214 Line two'],
  ['QUIT', 'say 221 2.0.0 Bye; exit 0'],
]);
