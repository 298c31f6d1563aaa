import { type PathArgument, type PathFault, parsePath } from './path.ts';
import { ANSWERS } from './replies.ts';

/** How many recipients a message may have: as many as RFC 5321 section 4.5.3.1.8 asks for. */
export const RECIPIENT_LIMIT = 100;

/** Who sends a message to whom. */
export interface Envelope {
  /** The name that the client gave itself, as it came: not to be written anywhere unchecked. */
  readonly helloName: string;
  /** Whether it said EHLO. */
  readonly extended: boolean;
  /** The sender, printable ASCII; '' for `<>`. */
  readonly sender: string;
  /** The recipients, printable ASCII, at least one. */
  readonly recipients: readonly string[];
}

/** A mail transaction (RFC 5321 section 3.3): greeting, sender and recipients, in this order. */
export interface Transaction {
  /** The client has said who it is. Whatever it said before is forgotten. */
  greet(helloName: string, extended: boolean): void;
  /** Takes what stands behind MAIL. @returns the reply. */
  mail(argument: string): Buffer;
  /** Takes what stands behind RCPT. @returns the reply. */
  rcpt(argument: string): Buffer;
  /** The envelope, or the reply that says what is missing. */
  envelope(): Envelope | Buffer;
  /** Forgets sender and recipients. */
  reset(): void;
}

/**
 * Begins with a client of which nothing is known.
 *
 * @param sizeLimit the size of the largest message that is taken, in octets; 0 for any.
 */
export function createTransaction(sizeLimit: number): Transaction {
  let hello: Pick<Envelope, 'helloName' | 'extended'> | undefined;
  let sender: string | undefined;
  let recipients: string[] = [];

  function mail(argument: string): Buffer {
    if (hello === undefined) return ANSWERS.helloFirst;
    if (sender !== undefined) return ANSWERS.mailTwice;
    const path = parsePath(argument, 'FROM');
    if (isFault(path)) return { ...FAULTS, ...MAIL_FAULTS }[path];
    for (const [keyword, value] of path.parameters) {
      const refusal = checkParameter(keyword, value, sizeLimit);
      if (refusal !== undefined) return refusal;
    }
    sender = path.mailbox;
    return ANSWERS.sender;
  }

  function rcpt(argument: string): Buffer {
    if (sender === undefined) return ANSWERS.mailFirst;
    const path = parsePath(argument, 'TO');
    if (isFault(path)) return { ...FAULTS, ...RCPT_FAULTS }[path];
    if (path.mailbox === '') return ANSWERS.badRecipient;
    if (path.parameters.size > 0) return ANSWERS.unknownParameter;
    if (recipients.length === RECIPIENT_LIMIT) return ANSWERS.tooManyRecipients;
    recipients.push(path.mailbox);
    return ANSWERS.recipient;
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
      if (hello === undefined || sender === undefined) return ANSWERS.mailFirst;
      return recipients.length === 0 ? ANSWERS.rcptFirst : { ...hello, sender, recipients };
    },
    reset,
  };
}

const FAULTS = { 'bad-parameters': ANSWERS.badParameter };
const MAIL_FAULTS = { 'no-path': ANSWERS.mailSyntax, 'no-mailbox': ANSWERS.badSender };
const RCPT_FAULTS = { 'no-path': ANSWERS.rcptSyntax, 'no-mailbox': ANSWERS.badRecipient };

function isFault(path: PathArgument | PathFault): path is PathFault {
  return typeof path === 'string';
}

/** The parameters of MAIL: BODY (RFC 6152) and SIZE (RFC 1870). @returns a refusal, if it is one. */
function checkParameter(keyword: string, value: string, sizeLimit: number): Buffer | undefined {
  if (keyword === 'BODY') return /^(7BIT|8BITMIME)$/i.test(value) ? undefined : ANSWERS.badParameter;
  if (keyword !== 'SIZE') return ANSWERS.unknownParameter;
  if (!/^\d{1,20}$/.test(value)) return ANSWERS.badParameter;
  return sizeLimit > 0 && Number(value) > sizeLimit ? ANSWERS.tooLarge : undefined;
}
