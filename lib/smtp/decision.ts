import type { Command } from './command.ts';
import type { Reply } from './reply-reader.ts';

/** What happens to a command. */
export type Decision =
  /**
   * It is passed on, or `line` in its place, without line ending. `prefix` goes before the message of DATA, if smtpd
   * replies 354, and before the octets of BDAT, whose `line` must count them too. `replied` is called with the code of the
   * reply, for AUTH of the last one; never for malformed BDAT, which the envelope refuses.
   */
  | { readonly type: 'pass'; readonly line?: string; readonly prefix?: Buffer; replied?(code: number): void }
  | Answer
  /** `line` is sent to smtpd first; its reply is for `replied` only. Then `decide` is called again. */
  | { readonly type: 'precede'; readonly line: string; replied(reply: Reply): void }
  /** `decide` is called again when no reply of smtpd is outstanding. Not allowed with `isQuiet`: it would never end. */
  | { readonly type: 'after-replies' }
  /** `decide` is called again after `Envelope.resume`. */
  | { readonly type: 'hold' };

/** The client gets this reply in place of one of smtpd. With `end`, nothing more is read from the client. */
export interface Answer {
  readonly type: 'answer';
  readonly reply: Buffer;
  readonly end?: boolean;
}

/**
 * Decides on a command of a client.
 *
 * @param text the line without line ending.
 * @param isQuiet whether no reply of smtpd is outstanding.
 */
export type Decide = (command: Command, text: Buffer, isQuiet: boolean) => Decision;
