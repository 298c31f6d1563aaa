import type { Attempt, ReachRequest } from './attempt.ts';
import { type CredentialsByHost, credentialsForHost } from './credentials-file.ts';
import { failureWarning } from './failure.ts';
import { attemptByProgram } from './program.ts';
import { reach } from './reach.ts';
import type { RelayDestination } from './route-table.ts';

/** A session with a destination. */
export interface DestinationRequest extends Omit<ReachRequest, 'target' | 'credentials' | 'recipientDomain'> {
  readonly credentials: CredentialsByHost;
  /** The whole environment of programs. */
  readonly environment: NodeJS.ProcessEnv;
}

/** Reaches a destination: a server, see `reach`, or a program. Each failure is logged. */
export function reachDestination(
  { server, recipientDomain }: RelayDestination,
  request: DestinationRequest,
): Promise<Attempt> {
  if (server.type === 'program') return reachProgram(server.command, request);
  const { target } = server;
  const credentials = credentialsForHost(request.credentials, target.host);
  return reach({ ...request, target, credentials, recipientDomain });
}

async function reachProgram(command: readonly string[], request: DestinationRequest): Promise<Attempt> {
  const { report, concluded, environment } = request;
  const [file = ''] = command;
  const name = `|${command.join(' ')}`;
  const result = await attemptByProgram(file, command, environment, request);
  concluded?.(name, result.type === 'reached' ? 'reached' : result.failure.result);
  if (result.type === 'failed') report.warning(failureWarning(name, result.failure));
  return result;
}
