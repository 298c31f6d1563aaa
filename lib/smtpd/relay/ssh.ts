import { upon } from '../../program/deferred.ts';
import { EXIT, Failure } from '../../program/failure.ts';
import { createRemoteOpening } from '../../smtp/remote-opening.ts';
import { startProgram } from '../process.ts';
import { describeEnd } from '../program.ts';
import { endSmtpd, type SmtpdEnd } from '../smtpd.ts';
import { type Attempt, advance, type ReachRequest } from './attempt.ts';
import { noSsh, openingFailed } from './failure.ts';
import { sshCommand } from './ssh-command.ts';
import type { SshTarget } from './ssh-url.ts';

/**
 * Tries to reach a server by ssh, which writes its own messages to our stderr. No process is left when that fails, but for
 * a shared connection.
 */
export async function attemptBySsh(target: SshTarget, request: ReachRequest): Promise<Attempt> {
  let command: readonly string[];
  try {
    command = sshCommand(target, request.ssh);
  } catch (error) {
    if (error instanceof Failure) return { type: 'failed', failure: noSsh(error.message) };
    throw error;
  }
  const smtpd = startProgram(command, request.ssh.environment);
  const cancel = upon(request.abort, () => smtpd.kill('SIGTERM'));
  if (request.header !== undefined) smtpd.sink.write(request.header);
  const opening = createRemoteOpening({
    verb: 'EHLO',
    name: request.name,
    // ssh encrypts, and the server on the other side sees a local client.
    starttls: 'never',
    credentials: undefined,
    hmacMd5: () => '',
  });
  const step = await advance(opening, smtpd, request);
  if (step !== 'start-tls' && step.type === 'ready') {
    cancel();
    const reached = { ...smtpd, ended: smtpd.ended.then(withOurStatus) };
    return { type: 'reached', reached: { smtpd: reached, hello: step.hello, rest: opening.rest() } };
  }
  const end = await endSmtpd(smtpd);
  if (step === 'start-tls' || (step.type === 'broken' && step.why === undefined)) {
    return { type: 'failed', failure: noSsh(end.failure ?? `ssh failed: ${describeEnd(end)}`) };
  }
  return { type: 'failed', failure: openingFailed(step, true, true) };
}

/** The status of ssh is that of the command on the other side, or 255. Ours is 0 or 111. */
function withOurStatus(end: SmtpdEnd): SmtpdEnd {
  return end.status === 0 ? end : { ...end, status: EXIT.systemCallFailed };
}
