import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process';
import { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { errorCode } from '../program/failure.ts';
import { type ByteStream, sinkOfStream, sourceOfStream } from './byte-stream.ts';

/** A program on whose standard input and output we are, the smtpd. */
export interface Child extends ByteStream {
  /** Settles when the program has ended, or at once when it could not be started. Never rejects. */
  readonly ended: Promise<ChildEnd>;
  /** Sends a signal; nothing happens when the program has ended. */
  kill(signal: NodeJS.Signals): void;
}

/** How a program ended. */
export interface ChildEnd {
  /**
   * Its exit status; 128 and the number of the signal that ended it. 127 when there is no such program,
   * 126 when it cannot be run, 111 when the system had no room for it.
   */
  readonly status: number;
  /** The signal that ended it. */
  readonly signal?: NodeJS.Signals;
  /** Why it could not be started, ready for stderr. */
  readonly failure?: string;
}

/** A program with further descriptors, by number from 3 on, that lead to us. */
export interface ChildWithDescriptors extends Pick<Child, 'ended' | 'kill'> {
  /** Our ends, each both ways, and half-closed only by us; empty when the program could not be started. */
  readonly descriptors: readonly Socket[];
}

/**
 * Starts a program that has our own standard descriptors, and `count` sockets more, from number 3 on.
 *
 * @param command the program, looked for along PATH, and its arguments.
 * @param environment its whole environment.
 */
export function startChildWithDescriptors(
  command: readonly string[],
  environment: NodeJS.ProcessEnv,
  count: number,
): ChildWithDescriptors {
  const [file = '', ...args] = command;
  const pipes = Array.from({ length: count }, () => 'pipe' as const);
  let child: ChildProcess;
  try {
    child = spawn(file, args, { env: environment, stdio: ['inherit', 'inherit', 'inherit', ...pipes] });
  } catch (error) {
    return { descriptors: [], ended: Promise.resolve(startFailure(file, error)), kill: () => {} };
  }
  const started = child.pid !== undefined;
  const ends = started ? child.stdio.slice(3).filter((end): end is Socket => end instanceof Socket) : [];
  // Otherwise Node ends our side when the program half-closes its own. It has to be set before 'end'.
  for (const end of ends) end.allowHalfOpen = true;
  return {
    descriptors: ends,
    ended: endOf(child, file),
    kill: (signal) => {
      child.kill(signal);
    },
  };
}

/**
 * Starts a program with pipes on its standard input and output. It shares our stderr and sees no other
 * descriptor of ours: Node has set close-on-exec on all that it inherited.
 *
 * @param command the program, looked for along PATH, and its arguments.
 * @param environment its whole environment.
 */
export function startChild(command: readonly string[], environment: NodeJS.ProcessEnv): Child {
  const [file = '', ...args] = command;
  let child: ChildProcessByStdio<Writable, Readable, null>;
  try {
    child = spawn(file, args, { env: environment, stdio: ['pipe', 'pipe', 'inherit'] });
  } catch (error) {
    return notStarted(Promise.resolve(startFailure(file, error)));
  }
  const ended = endOf(child, file);
  // Node has made no pipes then, or ones that lead nowhere.
  if (child.pid === undefined) return notStarted(ended);
  return {
    source: sourceOfStream(child.stdout),
    sink: sinkOfStream(child.stdin),
    ended,
    kill: (signal) => {
      child.kill(signal);
    },
  };
}

function endOf(child: ChildProcess, file: string): Promise<ChildEnd> {
  return new Promise((resolve) => {
    child.on('error', (error) => {
      if (child.pid === undefined) resolve(startFailure(file, error));
    });
    child.on('exit', (code, signal) => {
      void describeExit(code, signal).then(resolve);
    });
  });
}

async function describeExit(code: number | null, signal: NodeJS.Signals | null): Promise<ChildEnd> {
  if (signal === null) return { status: code ?? 0 };
  // Loaded here because few programs die of a signal and every start would pay for it.
  const { constants } = await import('node:os');
  return { status: 128 + constants.signals[signal], signal };
}

/** The child that could not be started: it says nothing and takes nothing. */
function notStarted(ended: Promise<ChildEnd>): Child {
  return {
    source: {
      listen: (listener) => queueMicrotask(() => listener.ended()),
      read() {},
      pause() {},
      close() {},
    },
    sink: { listen() {}, write: () => true, end: (done) => done?.(), close() {} },
    ended,
    kill: () => {},
  };
}

/** What a shell would make of it: 127 for not found, 126 for not to be run. */
const START_STATUSES: Readonly<Record<string, number>> = {
  ENOENT: 127,
  EAGAIN: 111,
  EMFILE: 111,
  ENFILE: 111,
  ENOMEM: 111,
};

function startFailure(file: string, error: unknown): ChildEnd {
  const code = errorCode(error);
  return { status: START_STATUSES[code] ?? 126, failure: `cannot run ${file}: ${code}` };
}
