import { upon } from '../program/deferred.ts';
import { createOpening, type OpeningOutcome } from '../smtp/opening.ts';
import { formatReply } from '../smtp/reply-reader.ts';
import { watchIdle } from '../stream/time.ts';
import { ORPHAN_IDLE_TIMEOUT, type Smtpd } from './smtpd.ts';

/** How an opening ended, and what smtpd sent after it. */
export interface HeldOpening {
  readonly outcome: OpeningOutcome;
  /**
   * Bytes for the client, usually none: a refusal, which serves as the reply to its next command, and what arrived
   * right after the opening.
   */
  readonly forClient: Buffer;
}

/**
 * Holds the opening with an smtpd that has just been started. Its source is paused afterwards.
 *
 * Memory: see `createReplyReader`.
 *
 * @param hellos see `createOpening`.
 * @param idleTimeout how long smtpd may send nothing, in milliseconds.
 * @param abort settles to give up: with the reason as a string, or for a shutdown with another value.
 */
export function holdOpening(
  smtpd: Smtpd,
  hellos: readonly string[],
  idleTimeout: number,
  abort: Promise<unknown>,
): Promise<HeldOpening> {
  const opening = createOpening(hellos);
  let settled = false;
  return new Promise((resolve) => {
    const settle = (outcome: OpeningOutcome): void => {
      // Aborted after the opening: the source belongs to the caller by now.
      if (settled) return;
      settled = true;
      watch.stop();
      for (const cancel of cancellations) cancel();
      smtpd.source.pause();
      const refusal = outcome.type === 'refused' ? [formatReply(outcome.reply)] : [];
      resolve({ outcome, forClient: Buffer.concat([...refusal, opening.rest()]) });
    };
    const advance = (): void => {
      for (let step = opening.next(); step !== undefined; step = opening.next()) {
        if (step.type === 'outcome') return settle(step.outcome);
        // It is one line, and smtpd has read all lines before it: there is nothing to wait for.
        smtpd.sink.write(step.bytes);
      }
    };
    const end = (): void => {
      opening.smtpdEnded();
      advance();
    };
    let watch = watchIdle(idleTimeout, () => settle({ type: 'broken', why: 'idle timeout' }));
    const cancellations = [
      upon(smtpd.ended, () => {
        // A process that it left behind may hold its output open.
        watch.stop();
        watch = watchIdle(Math.min(idleTimeout, ORPHAN_IDLE_TIMEOUT), end);
      }),
      upon(abort, (why) => {
        settle({ type: 'broken', why: typeof why === 'string' ? why : 'shutting down' });
      }),
    ];
    smtpd.source.listen({
      bytes: (bytes) => {
        watch.active();
        opening.fromSmtpd(bytes);
        advance();
      },
      ended: end,
    });
    smtpd.source.read();
  });
}
