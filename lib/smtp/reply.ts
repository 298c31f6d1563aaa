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
  return Buffer.from(`${line.code}${line.last ? ' ' : '-'}${line.text}\r\n`, 'latin1');
}

/** The keyword of an extension line in a reply to EHLO, in upper case; the obsolete "AUTH=LOGIN" counts as AUTH. */
export function extensionKeyword(line: ReplyLine): string {
  return (/^\s*([^\s=]*)/.exec(line.text)?.[1] ?? '').toUpperCase();
}

/**
 * Our own replies, as opposed to smtpd's. Each has an enhanced status code (RFC 2034, RFC 3463) and a text that
 * helps the sender to get the mail delivered.
 *
 * Each is created when it is used: creating them all takes 1 % of a program's start, and most are never sent.
 */
export const REPLIES = {
  get readyForTls() {
    return ours('220 2.0.0 Ready to start TLS');
  },
  get tlsUnavailable() {
    return ours('454 4.7.0 TLS is not available just now, please try again later');
  },
  get noParameter() {
    return ours('501 5.5.4 STARTTLS takes no parameter');
  },
  get waitForTls() {
    return ours('503 5.5.1 Please wait for the reply to STARTTLS before you send more; no TLS this time');
  },
  get mailFirst() {
    return ours('503 5.5.1 Please say MAIL first');
  },
  get tlsFirst() {
    return ours('530 5.7.0 Please say STARTTLS first');
  },
  get tlsBeforeAuth() {
    return ours('538 5.7.11 Encryption is needed to log in, please say STARTTLS first');
  },
  get notHttp() {
    return ours('421 4.7.0 This is a mail server and speaks SMTP only, goodbye');
  },
  get tooLong() {
    return ours('500 5.5.2 Line too long, please send shorter ones');
  },
  get controls() {
    return ours('500 5.5.2 A line must not hold a bare CR or a NUL');
  },
  get noCommand() {
    return ours('500 5.5.2 Empty line; please say a command, or QUIT');
  },
  get tooManyErrors() {
    return ours('421 4.7.0 Too many commands were refused, closing');
  },
  get tooSlow() {
    return ours('421 4.4.2 Nothing happened for too long, closing; please try again');
  },
  get smtpdFailed() {
    return ours('421 4.3.0 The mail server behind this one failed, please try again later');
  },
  get notSetUp() {
    return ours('421 4.3.0 The mail server is not set up correctly, please try again later');
  },
  get tooBusy() {
    return ours('421 4.3.2 The mail server is too busy just now, please try again later');
  },
  get tooManyFromAddress() {
    return ours('421 4.7.0 Too many connections from your address, please try again later');
  },
  get shuttingDown() {
    return ours('421 4.3.2 The mail server is being shut down, please try again later');
  },
} as const;

function ours(reply: string): Buffer {
  return Buffer.from(`${reply}\r\n`, 'latin1');
}
