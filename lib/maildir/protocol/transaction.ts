import { type PathArgument, type PathFault, parsePath } from '../../smtp/path.ts';
import { RECEIVER_REPLIES } from './replies.ts';

/** The maximum number of recipients of a message: the minimum of RFC 5321 section 4.5.3.1.8. */
const RECIPIENT_LIMIT = 100;

/** The envelope of a message. */
export interface Envelope {
  /** The name in EHLO or HELO, as received: it may contain anything. */
  readonly helloName: string;
  /** True after EHLO, false after HELO. */
  readonly extended: boolean;
  /** The sender, printable ASCII; '' for `<>`. */
  readonly sender: string;
  /** The recipients, printable ASCII, at least one. */
  readonly recipients: readonly string[];
}

/** A mail transaction (RFC 5321 section 3.3): EHLO or HELO, MAIL, RCPT, in this order. */
export interface Transaction {
  /** EHLO or HELO. Also resets the transaction. */
  greet(helloName: string, extended: boolean): void;
  /** MAIL with its argument. @returns the reply. */
  mail(argument: string): Buffer;
  /** RCPT with its argument. @returns the reply. */
  rcpt(argument: string): Buffer;
  /** The envelope, or the reply to DATA when it is incomplete. */
  envelope(): Envelope | Buffer;
  /** Clears sender and recipients. */
  reset(): void;
}

/**
 * Creates a transaction in which no command has been given.
 *
 * @param sizeLimit the maximum size of a message in octets; 0 for no limit.
 */
export function createTransaction(sizeLimit: number): Transaction {
  let hello: Pick<Envelope, 'helloName' | 'extended'> | undefined;
  let sender: string | undefined;
  let recipients: string[] = [];

  function mail(argument: string): Buffer {
    if (hello === undefined) return RECEIVER_REPLIES.helloFirst;
    if (sender !== undefined) return RECEIVER_REPLIES.mailTwice;
    const path = parsePath(argument, 'FROM');
    if (isFault(path)) return { ...FAULTS, ...MAIL_FAULTS }[path];
    for (const [keyword, value] of path.parameters) {
      const refusal = checkParameter(keyword, value, sizeLimit);
      if (refusal !== undefined) return refusal;
    }
    sender = path.mailbox;
    return RECEIVER_REPLIES.sender;
  }

  function rcpt(argument: string): Buffer {
    if (sender === undefined) return RECEIVER_REPLIES.mailFirst;
    const path = parsePath(argument, 'TO');
    if (isFault(path)) return { ...FAULTS, ...RCPT_FAULTS }[path];
    if (path.mailbox === '') return RECEIVER_REPLIES.badRecipient;
    if (path.parameters.size > 0) return RECEIVER_REPLIES.unknownParameter;
    if (recipients.length === RECIPIENT_LIMIT) return RECEIVER_REPLIES.tooManyRecipients;
    recipients.push(path.mailbox);
    return RECEIVER_REPLIES.recipient;
  }

  function reset(): void {
    sender = undefined;
    recipients = [];
  }

  return {
    greet: (helloName, extended) => {
      hello = { helloName, extended };
      reset();
    },
    mail,
    rcpt,
    envelope: () => {
      if (hello === undefined || sender === undefined) return RECEIVER_REPLIES.mailFirst;
      return recipients.length === 0 ? RECEIVER_REPLIES.rcptFirst : { ...hello, sender, recipients };
    },
    reset,
  };
}

const FAULTS = { 'bad-parameters': RECEIVER_REPLIES.badParameter };
const MAIL_FAULTS = { 'no-path': RECEIVER_REPLIES.mailSyntax, 'no-mailbox': RECEIVER_REPLIES.badSender };
const RCPT_FAULTS = { 'no-path': RECEIVER_REPLIES.rcptSyntax, 'no-mailbox': RECEIVER_REPLIES.badRecipient };

function isFault(path: PathArgument | PathFault): path is PathFault {
  return typeof path === 'string';
}

/** Checks a parameter of MAIL: BODY (RFC 6152) or SIZE (RFC 1870). @returns the reply if it is refused. */
function checkParameter(keyword: string, value: string, sizeLimit: number): Buffer | undefined {
  if (keyword === 'BODY') {
    return /^(7BIT|8BITMIME)$/i.test(value) ? undefined : RECEIVER_REPLIES.badParameter;
  }
  if (keyword !== 'SIZE') return RECEIVER_REPLIES.unknownParameter;
  if (!/^\d{1,20}$/.test(value)) return RECEIVER_REPLIES.badParameter;
  return sizeLimit > 0 && Number(value) > sizeLimit ? RECEIVER_REPLIES.tooLarge : undefined;
}
