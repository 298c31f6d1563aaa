import { upon } from '../../program/deferred.ts';
import { EXIT } from '../../program/failure.ts';
import { createRemoteOpening } from '../../smtp/remote-opening.ts';
import { startProgram } from '../process.ts';
import { describeStatus } from '../program.ts';
import { endSmtpd, type SmtpdEnd } from '../smtpd.ts';
import { type Attempt, advance, type ReachRequest } from './attempt.ts';
import { openingFailed, programFailed } from './failure.ts';

/**
 * Tries to reach a server that is a program, which writes its own messages to our stderr. No process is left when that
 * fails.
 *
 * @param name what messages call it.
 * @param command the program, searched in PATH, and its arguments.
 */
export async function attemptByProgram(
  name: string,
  command: readonly string[],
  environment: NodeJS.ProcessEnv,
  request: Pick<ReachRequest, 'name' | 'header' | 'abort' | 'replyTimeout'>,
): Promise<Attempt> {
  const smtpd = startProgram(command, environment);
  const cancel = upon(request.abort, () => smtpd.kill('SIGTERM'));
  if (request.header !== undefined) smtpd.sink.write(request.header);
  const opening = createRemoteOpening({
    verb: 'EHLO',
    name: request.name,
    // What is between us and a program is not a network; ssh encrypts.
    starttls: 'never',
    credentials: undefined,
    hmacMd5: () => '',
  });
  const step = await advance(opening, smtpd, request);
  if (step !== 'start-tls' && step.type === 'ready') {
    cancel();
    const reached = { ...smtpd, ended: smtpd.ended.then(withOurStatus) };
    return { type: 'reached', reached: { smtpd: reached, hello: step.hello, rest: opening.rest } };
  }
  const end = await endSmtpd(smtpd);
  if (step === 'start-tls' || (step.type === 'broken' && step.why === undefined)) {
    return { type: 'failed', failure: programFailed(`${name} failed: ${describeStatus(end)}`, end.failure) };
  }
  return { type: 'failed', failure: openingFailed(step, { inTls: true, isBelieved: true }) };
}

/** The status of a program is its own; that of ssh is that of the command on the other side, or 255. Ours is 0 or 111. */
function withOurStatus(end: SmtpdEnd): SmtpdEnd {
  return end.status === 0 ? end : { ...end, status: EXIT.systemCallFailed };
}
