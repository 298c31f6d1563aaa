/**
 * What smtpd-maildir answers, in whole replies, with enhanced status codes (RFC 2034, RFC 3463). What it
 * has in common with the dialogue of the proxy stands in smtp/reply.ts.
 */
export const ANSWERS = {
  ok: answer('250 2.0.0 Ok'),
  sender: answer('250 2.1.0 Sender ok'),
  recipient: answer('250 2.1.5 Recipient ok'),
  stored: answer('250 2.0.0 Message stored'),
  goAhead: answer('354 Please send the message, and a dot alone on a line at its end'),
  goodbye: answer('221 2.0.0 Goodbye'),
  willTry: answer('252 2.5.0 Every recipient is taken; please send mail to find out more'),
  help: answer(
    '214-2.0.0 This server knows EHLO, HELO, MAIL, RCPT, DATA,',
    '214 2.0.0 RSET, NOOP, VRFY, HELP and QUIT; see RFC 5321',
  ),
  unknown: answer('500 5.5.1 No such command here; HELP lists those that there are'),
  notOffered: answer('502 5.5.1 This command is not offered here'),
  helloFirst: answer('503 5.5.1 Please say EHLO or HELO first'),
  mailFirst: answer('503 5.5.1 Please say MAIL first'),
  rcptFirst: answer('503 5.5.1 Please name a recipient with RCPT first'),
  mailTwice: answer('503 5.5.1 There was a MAIL already; RSET begins anew'),
  noName: answer('501 5.5.4 Please give your host name'),
  noArgument: answer('501 5.5.4 This command takes no argument'),
  needsArgument: answer('501 5.5.4 This command needs an argument'),
  mailSyntax: answer('501 5.5.4 Please say MAIL FROM:<user@host>'),
  rcptSyntax: answer('501 5.5.4 Please say RCPT TO:<user@host>'),
  badSender: answer('501 5.1.7 This is no sender address; please say user@host'),
  badRecipient: answer('501 5.1.3 This is no recipient address; please say user@host'),
  badParameter: answer('501 5.5.4 This parameter makes no sense'),
  unknownParameter: answer('555 5.5.4 This parameter is not known here'),
  tooManyRecipients: answer('452 4.5.3 Too many recipients, please send to the others in another message'),
  tooLarge: answer('552 5.3.4 The message is larger than this server takes'),
  notText: answer('554 5.6.0 A message must not hold a NUL or a bare CR'),
  cannotStore: answer('451 4.3.0 Unable to store the message, please try again later'),
  tooManyErrors: answer('421 4.7.0 Too many errors, closing'),
} as const;

/** Writes a reply of one line or many. */
export function answer(...lines: readonly string[]): Buffer {
  return Buffer.from(`${lines.join('\r\n')}\r\n`, 'latin1');
}

/**
 * The answer to EHLO: PIPELINING (RFC 2920), 8BITMIME (RFC 6152), ENHANCEDSTATUSCODES (RFC 2034), SIZE
 * (RFC 1870) and HELP.
 *
 * @param sizeLimit in octets; 0 for none.
 */
export function extensions(host: string, sizeLimit: number): Buffer {
  return answer(
    `250-${host}`,
    '250-PIPELINING',
    '250-8BITMIME',
    '250-ENHANCEDSTATUSCODES',
    `250-SIZE ${sizeLimit}`,
    '250 HELP',
  );
}
