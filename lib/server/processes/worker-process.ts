import { type ChildProcess, spawn } from 'node:child_process';
import { Socket } from 'node:net';
import { EXIT, errorCode, Failure } from '../../program/failure.ts';

/**
 * The argv[0] of a worker. It shows in the output of ps, and identifies the process as a worker: an environment
 * variable could be set for the server by accident.
 */
const WORKER_NAME = 'smtpd-starttls-server: worker';

/** The descriptor of a worker's channel to the primary. The sockets to listen on follow. */
const CHANNEL_DESCRIPTOR = 3;

/** The descriptor, in a worker, of the socket with this index, from 0. */
export function socketDescriptor(index: number): number {
  return CHANNEL_DESCRIPTOR + 1 + index;
}

/** Whether this process was started by `startWorkerProcess`. */
export function isWorker(): boolean {
  return process.argv0 === WORKER_NAME;
}

/**
 * Starts this program again, with the same command line, as a worker.
 *
 * The channel is a plain socket pair, not that of child_process.fork, which buffers messages of any length and
 * receives descriptors: a worker could make this process listen on a socket of the worker's choice.
 *
 * @param environment the whole environment of the worker.
 * @param descriptors of the sockets to listen on.
 * @throws Error when spawning fails at once; other failures are an 'error' event of the child.
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
  const channel = pid === undefined ? undefined : stdio[CHANNEL_DESCRIPTOR];
  return channel instanceof Socket ? channel : undefined;
}

/**
 * The worker's end of the channel.
 *
 * @throws Failure (111) when the descriptor is not a socket.
 */
export function openChannelSocket(): Socket {
  try {
    return new Socket({ fd: CHANNEL_DESCRIPTOR, readable: true, writable: true });
  } catch (error) {
    throw new Failure(EXIT.systemCallFailed, `unable to reach the primary process: ${errorCode(error)}`);
  }
}
