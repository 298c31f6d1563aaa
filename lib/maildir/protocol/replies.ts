/**
 * The replies of smtpd-maildir, complete, with enhanced status codes (RFC 2034, RFC 3463). Those that it shares
 * with the dialogue of the proxy are in smtp/reply.ts.
 */
export const RECEIVER_REPLIES = {
  ok: encodeReply('250 2.0.0 Ok'),
  sender: encodeReply('250 2.1.0 Sender ok'),
  recipient: encodeReply('250 2.1.5 Recipient ok'),
  stored: encodeReply('250 2.0.0 Message stored'),
  startData: encodeReply('354 Send the message, then a line with a single dot'),
  goodbye: encodeReply('221 2.0.0 Goodbye'),
  cannotVerify: encodeReply('252 2.5.0 Cannot verify the user; all recipients are accepted'),
  help: encodeReply(
    '214-2.0.0 Commands: EHLO, HELO, MAIL, RCPT, DATA,',
    '214 2.0.0 RSET, NOOP, VRFY, HELP, QUIT; see RFC 5321',
  ),
  unknownCommand: encodeReply('500 5.5.1 Unknown command; HELP lists the commands'),
  notImplemented: encodeReply('502 5.5.1 Command not implemented'),
  helloFirst: encodeReply('503 5.5.1 Send EHLO or HELO first'),
  mailFirst: encodeReply('503 5.5.1 Send MAIL first'),
  rcptFirst: encodeReply('503 5.5.1 Send RCPT first'),
  mailTwice: encodeReply('503 5.5.1 Sender already given; RSET starts again'),
  hostNameMissing: encodeReply('501 5.5.4 Missing host name'),
  argumentNotAllowed: encodeReply('501 5.5.4 This command takes no argument'),
  argumentMissing: encodeReply('501 5.5.4 This command requires an argument'),
  mailSyntax: encodeReply('501 5.5.4 Syntax: MAIL FROM:<user@host>'),
  rcptSyntax: encodeReply('501 5.5.4 Syntax: RCPT TO:<user@host>'),
  badSender: encodeReply('501 5.1.7 Invalid sender address; use user@host'),
  badRecipient: encodeReply('501 5.1.3 Invalid recipient address; use user@host'),
  badParameter: encodeReply('501 5.5.4 Malformed parameter'),
  unknownParameter: encodeReply('555 5.5.4 Unknown parameter'),
  tooManyRecipients: encodeReply('452 4.5.3 Too many recipients; send to the others in another message'),
  tooLarge: encodeReply('552 5.3.4 Message exceeds the size limit'),
  invalidText: encodeReply('554 5.6.0 Message contains a NUL or a bare CR'),
  cannotStore: encodeReply('451 4.3.0 Unable to store the message, please try again later'),
  tooManyErrors: encodeReply('421 4.7.0 Too many errors, closing connection'),
} as const;

/** Formats a reply of one line or several. The lines are latin1, each with its code and without CRLF. */
export function encodeReply(...lines: readonly string[]): Buffer {
  return Buffer.from(`${lines.join('\r\n')}\r\n`, 'latin1');
}

/**
 * The reply to EHLO: PIPELINING (RFC 2920), 8BITMIME (RFC 6152), ENHANCEDSTATUSCODES (RFC 2034), SIZE
 * (RFC 1870) and HELP.
 *
 * @param sizeLimit in octets; 0 for no limit.
 */
export function ehloReply(host: string, sizeLimit: number): Buffer {
  return encodeReply(
    `250-${host}`,
    '250-PIPELINING',
    '250-8BITMIME',
    '250-ENHANCEDSTATUSCODES',
    `250-SIZE ${sizeLimit}`,
    '250 HELP',
  );
}
