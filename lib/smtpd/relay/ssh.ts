import type { Attempt, ReachRequest } from './attempt.ts';
import { attemptByProgram } from './program.ts';
import { sshCommand } from './ssh-command.ts';
import type { SshTarget } from './ssh-url.ts';

/** Tries to reach a server by ssh. No process is left when that fails, but for a shared connection. */
export function attemptBySsh(target: SshTarget, request: ReachRequest): Promise<Attempt> {
  const command = sshCommand(target, request.ssh, request.report.warning);
  return attemptByProgram('ssh', command, request.ssh.environment, request);
}
