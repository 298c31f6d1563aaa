import { Failure } from '../../program/failure.ts';
import type { Attempt, ReachRequest } from './attempt.ts';
import { programFailed } from './failure.ts';
import { attemptByProgram } from './program.ts';
import { sshCommand } from './ssh-command.ts';
import type { SshTarget } from './ssh-url.ts';

/** Tries to reach a server by ssh. No process is left when that fails, but for a shared connection. */
export async function attemptBySsh(target: SshTarget, request: ReachRequest): Promise<Attempt> {
  let command: readonly string[];
  try {
    command = sshCommand(target, request.ssh);
  } catch (error) {
    if (error instanceof Failure) return { type: 'failed', failure: programFailed(error.message) };
    throw error;
  }
  return attemptByProgram('ssh', command, request.ssh.environment, request);
}
