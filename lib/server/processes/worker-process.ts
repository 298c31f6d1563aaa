import { type ChildProcess, spawn } from 'node:child_process';
import { Socket } from 'node:net';
import { EXIT, errorCode, Failure } from '../../program/failure.ts';

/**
 * What a worker is started as (argv[0]). It shows in the output of ps, and is how a worker knows that it is one: a
 * variable could be in the environment of the server by accident.
 */
const WORKER_NAME = 'smtpd-starttls-server: worker';

/** Where a worker has its channel to the primary; the sockets to listen on follow. */
const CHANNEL_DESCRIPTOR = 3;

/** The number in a worker of the socket with this index, from 0. */
export function socketDescriptor(index: number): number {
  return CHANNEL_DESCRIPTOR + 1 + index;
}

/** Whether this process was started by `startWorkerProcess`. */
export function isWorker(): boolean {
  return process.argv0 === WORKER_NAME;
}

/**
 * Starts this program once more, with the same command line, as a worker.
 *
 * The channel is a plain socket pair and not that of child_process.fork, which keeps messages of any length in
 * memory and takes descriptors: a worker could have this process listen on a socket of its own.
 *
 * @param environment its whole environment.
 * @param descriptors of the sockets to listen on.
 * @throws Error when the system does not allow it; other failures are an event of the child.
 */
export function startWorkerProcess(
  environment: NodeJS.ProcessEnv,
  descriptors: readonly number[],
): ChildProcess {
  const [, program = '', ...args] = process.argv;
  return spawn(process.execPath, [...process.execArgv, program, ...args], {
    argv0: WORKER_NAME,
    env: environment,
    stdio: ['ignore', 'inherit', 'inherit', 'pipe', ...descriptors],
  });
}

/** The primary's end of the channel; undefined when the worker could not be started. */
export function channelOf({ pid, stdio }: ChildProcess): Socket | undefined {
  const end = pid === undefined ? undefined : stdio[CHANNEL_DESCRIPTOR];
  return end instanceof Socket ? end : undefined;
}

/**
 * The worker's end of the channel.
 *
 * @throws Failure (111) when there is none.
 */
export function openChannelSocket(): Socket {
  try {
    return new Socket({ fd: CHANNEL_DESCRIPTOR, readable: true, writable: true });
  } catch (error) {
    throw new Failure(EXIT.systemCallFailed, `unable to reach the primary process: ${errorCode(error)}`);
  }
}
