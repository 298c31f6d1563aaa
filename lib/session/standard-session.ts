import { passSignals } from '../program/signals.ts';
import { openStandard } from '../stream/descriptor.ts';
import { type SessionTimes, termsWithoutDialogue } from './options.ts';
import { type SessionOptions, startSession } from './session.ts';

/** A session without a dialogue, for the client on descriptors 0 and 1. */
export interface StandardSession extends Pick<SessionOptions, 'startSmtpd' | 'report'> {
  readonly times: SessionTimes;
}

/**
 * Runs the one session of a program. Signals that the program gets are passed on.
 *
 * @returns the exit status: smtpd's.
 * @throws Failure (111) when descriptors 0 and 1 are not connected to a client.
 */
export async function runStandardSession({ times, startSmtpd, report }: StandardSession): Promise<number> {
  const session = startSession({
    tls: undefined,
    terms: termsWithoutDialogue(times),
    client: openStandard(),
    report,
    startSmtpd,
  });
  passSignals(session.terminate);
  const { status } = await session.ended;
  return status;
}
