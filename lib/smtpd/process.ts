import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process';
import { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { errorCode } from '../program/failure.ts';
import { type ByteStream, sinkOfStream, sourceOfStream } from '../stream/byte-stream.ts';

/** A running program with pipes from and to us on its standard input and output: the smtpd. */
export interface Child extends ByteStream {
  /** Settles when the program has exited, or at once if it could not be started. Never rejects. */
  readonly ended: Promise<ChildEnd>;
  /** Sends a signal; has no effect once the program has exited. */
  kill(signal: NodeJS.Signals): void;
}

/** How a program ended. */
export interface ChildEnd {
  /**
   * Its exit status; 128 plus the number of the signal that killed it; 127 if there is no such program, 126 if it
   * cannot be run, 111 if the system lacked processes, descriptors or memory for it.
   */
  readonly status: number;
  /** The signal that killed it. */
  readonly signal?: NodeJS.Signals;
  /** Why it could not be started, as a message for stderr. */
  readonly failure?: string;
}

/** A running program with additional descriptors, numbered from 3, that are connected to us. */
export interface ChildWithDescriptors extends Pick<Child, 'ended' | 'kill'> {
  /** Our ends: bidirectional, half-closed only by us; empty if the program could not be started. */
  readonly descriptors: readonly Socket[];
}

/**
 * Starts a program with our own standard descriptors and `count` additional sockets, numbered from 3.
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
  // Otherwise Node ends our side when the program half-closes its own. Must be set before 'end'.
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
 * Starts a program with pipes on its standard input and output. It shares our stderr and inherits no other
 * descriptor of ours: Node has set close-on-exec on all that it inherited itself.
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
  // Node has then made no pipes, or unconnected ones.
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
  // Loaded only here: few programs are killed by a signal, and loading it would slow down every start.
  const { constants } = await import('node:os');
  return { status: 128 + constants.signals[signal], signal };
}

/** A child that could not be started: it sends nothing and discards what is written to it. */
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

/** Exit statuses as in a shell, 127 for not found and 126 for not executable; 111 for temporary failures. */
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
