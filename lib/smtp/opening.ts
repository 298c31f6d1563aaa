/**
 * The opening: the client's part of a session until the client itself takes over. It reads the greeting of an smtpd and
 * introduces the client to it.
 *
 *   it awaits          and the reply is                       then
 *   -----------------  -------------------------------------  --------------------------------
 *   the greeting       not positive                           outcome `refused`
 *                      positive                               the first of `hellos` is sent
 *   a reply to one     any, and it is not the last            the next is sent
 *     of `hellos`      not positive, and it is the last       outcome `refused`
 *                      positive, and it is the last           outcome `ready`
 *   either             no SMTP reply, or too long             outcome `broken`
 *                      the end of smtpd's output              outcome `broken`, without a reason
 *
 * Without `hellos` the greeting is the last reply. Positive codes begin with 2. It does no I/O and has no timers.
 */

import { createReplyReader, isPositive, type Reply } from './reply-reader.ts';

/** How an opening ended. */
export type OpeningOutcome =
  /** smtpd awaits the client's next command. */
  | { readonly type: 'ready'; readonly greeting: Reply; readonly replies: readonly Reply[] }
  /**
   * smtpd refuses service, with this reply to the last of `hellos`; undefined if it is the greeting. It may still take
   * commands: QUIT, at least.
   */
  | { readonly type: 'refused'; readonly reply: Reply; readonly hello: string | undefined }
  /** The session cannot go on, for this reason; undefined if smtpd has ended. */
  | { readonly type: 'broken'; readonly why: string | undefined };

/** What the driver of an opening is to do next. The outcome is the last step. */
export type OpeningStep =
  | { readonly type: 'to-smtpd'; readonly bytes: Buffer }
  | { readonly type: 'outcome'; readonly outcome: OpeningOutcome };

/** The opening of one session. */
export interface Opening {
  /** Takes bytes from smtpd. */
  fromSmtpd(bytes: Uint8Array): void;
  /** smtpd will send no more. */
  smtpdEnded(): void;
  /** The next step; undefined when there is none until more input arrives. */
  next(): OpeningStep | undefined;
  /** What smtpd has sent after the last reply; valid after the outcome. */
  rest(): Buffer;
}

/**
 * Creates an opening.
 *
 * @param hellos the commands with which the client is introduced, usually one, without line ending: "EHLO host".
 */
export function createOpening(hellos: readonly string[]): Opening {
  const reader = createReplyReader();
  const replies: Reply[] = [];
  let hasEnded = false;
  let isOver = false;

  function end(outcome: OpeningOutcome): OpeningStep {
    isOver = true;
    return { type: 'outcome', outcome };
  }

  function next(): OpeningStep | undefined {
    if (isOver) return undefined;
    const read = reader.next();
    if (read === undefined) return hasEnded ? end({ type: 'broken', why: undefined }) : undefined;
    if (read.type === 'fault') return end({ type: 'broken', why: read.why });
    return handleReply(read.reply);
  }

  function handleReply(reply: Reply): OpeningStep {
    replies.push(reply);
    const hello = hellos[replies.length - 1];
    const isGreeting = replies.length === 1;
    if (!isPositive(reply) && (isGreeting || hello === undefined)) {
      return end({ type: 'refused', reply, hello: isGreeting ? undefined : hellos.at(-1) });
    }
    if (hello !== undefined) return { type: 'to-smtpd', bytes: Buffer.from(`${hello}\r\n`, 'latin1') };
    const [greeting = reply, ...others] = replies;
    return end({ type: 'ready', greeting, replies: others });
  }

  return {
    fromSmtpd: reader.push,
    smtpdEnded: () => {
      hasEnded = true;
    },
    next,
    rest: reader.rest,
  };
}
