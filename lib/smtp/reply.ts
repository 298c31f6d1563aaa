/** One line of an SMTP reply (RFC 5321 section 4.2). */
export interface ReplyLine {
  /** The three digits, 200 to 599. */
  readonly code: number;
  /** False when another line of the same reply follows. */
  readonly last: boolean;
  /** The text after the code and its separator; may be empty. */
  readonly text: string;
}

/**
 * Parses a line of an SMTP reply: three digits, then nothing, or "-" or a space and text.
 *
 * @param line the line without its line ending.
 * @returns undefined if the line is not an SMTP reply line.
 */
export function parseReplyLine(line: Buffer): ReplyLine | undefined {
  const match = /^([2-5]\d\d)(?:([ -])(.*))?$/s.exec(line.toString('latin1'));
  if (match === null) return undefined;
  return { code: Number(match[1]), last: match[2] !== '-', text: match[3] ?? '' };
}

/**
 * Formats a line of a reply, with CRLF.
 *
 * @param line its text has one octet per character (latin1), as `parseReplyLine` returns it.
 */
export function formatReplyLine(line: ReplyLine): Buffer {
  return Buffer.from(replyLineText(line), 'latin1');
}

/** The octets of a line of a reply, with CRLF, as characters of latin1. */
export function replyLineText({ code, last, text }: ReplyLine): string {
  return `${code}${last ? ' ' : '-'}${text}\r\n`;
}

/** The keyword in the text of an extension line in a reply to EHLO, in upper case; the obsolete "AUTH=LOGIN" counts as AUTH. */
export function extensionKeyword(text: string): string {
  return (/^\s*([^\s=]*)/.exec(text)?.[1] ?? '').toUpperCase();
}

/**
 * Our own replies, as opposed to smtpd's. Each has an enhanced status code (RFC 2034, RFC 3463) and a text that
 * helps the sender to get the mail delivered.
 *
 * Each is created when it is used: creating them all takes 1 % of a program's start, and most are never sent.
 */
export const REPLIES = {
  get ok() {
    return ours('250 2.0.0 OK');
  },
  get bye() {
    return ours('221 2.0.0 Closing connection');
  },
  get readyForTls() {
    return ours('220 2.0.0 Ready to start TLS');
  },
  get tlsUnavailable() {
    return ours('454 4.7.0 TLS not available, please try again later');
  },
  get earlyTalker() {
    return ours('554 5.5.1 Wait for the greeting before sending commands, closing connection');
  },
  get noParameter() {
    return ours('501 5.5.4 STARTTLS takes no parameter');
  },
  get noSecondTls() {
    return ours('503 5.5.1 STARTTLS not available here');
  },
  get waitForTls() {
    return ours('503 5.5.1 Wait for the reply to STARTTLS before sending more; TLS not started');
  },
  get noAuth() {
    return ours('502 5.5.1 AUTH not available here');
  },
  get mailFirst() {
    return ours('503 5.5.1 Send MAIL first');
  },
  get nestedMail() {
    return ours('503 5.5.1 A transaction is open, send RSET first');
  },
  get resetFirst() {
    return ours('503 5.5.1 Send RSET first');
  },
  get senderOk() {
    return ours('250 2.1.0 Sender ok');
  },
  get badSender() {
    return ours('501 5.1.7 Invalid sender address, send MAIL FROM:<user@host>');
  },
  get badRecipient() {
    return ours('501 5.1.3 Invalid recipient address, send RCPT TO:<user@host>');
  },
  get badChunk() {
    return ours('501 5.5.4 BDAT takes a size, and LAST');
  },
  get badSrsRecipient() {
    return ours('550 5.1.1 Invalid or expired SRS address');
  },
  get longSender() {
    return ours('553 5.1.7 Sender address too long to be rewritten by SRS');
  },
  get noRoute() {
    return ours('550 5.7.1 No route for this address');
  },
  get otherRoute() {
    return ours('452 4.5.3 This recipient has another route, please send it in another transaction');
  },
  get noRecipients() {
    return ours('554 5.5.1 No valid recipients');
  },
  get notAvailable() {
    return ours('502 5.5.1 Command not available here');
  },
  get tlsFirst() {
    return ours('530 5.7.0 Send STARTTLS first');
  },
  get tlsBeforeAuth() {
    return ours('538 5.7.11 Encryption required to authenticate, send STARTTLS first');
  },
  get notHttp() {
    return ours('421 4.7.0 SMTP only, closing connection');
  },
  get tooLong() {
    return ours('500 5.5.2 Line too long');
  },
  get controls() {
    return ours('500 5.5.2 Bare CR or NUL not allowed');
  },
  get bareNewline() {
    return ours('550 5.6.0 Bare CR or LF in the message not allowed, closing connection');
  },
  get noCommand() {
    return ours('500 5.5.2 Empty line, send a command or QUIT');
  },
  get tooManyErrors() {
    return ours('421 4.7.0 Too many refused commands, closing connection');
  },
  get tooSlow() {
    return ours('421 4.4.2 Idle timeout, closing connection, please try again');
  },
  get smtpdFailed() {
    return ours('421 4.3.0 Mail server failed, please try again later');
  },
  get notSetUp() {
    return ours('421 4.3.0 Mail server not configured correctly, please try again later');
  },
  get tooBusy() {
    return ours('421 4.3.2 Mail server too busy, please try again later');
  },
  get noRoomNow() {
    return ours('451 4.3.2 Mail server too busy, please try again later');
  },
  get tooManyFromAddress() {
    return ours('421 4.7.0 Too many connections from your address, please try again later');
  },
  get shuttingDown() {
    return ours('421 4.3.2 Mail server shutting down, please try again later');
  },
} as const;

function ours(reply: string): Buffer {
  return Buffer.from(`${reply}\r\n`, 'latin1');
}
