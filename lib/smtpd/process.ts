import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process';
import { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { explain } from '../program/explain.ts';
import { errorCode } from '../program/failure.ts';
import { sinkOfStream, sourceOfStream } from '../stream/byte-stream.ts';
import type { Smtpd, SmtpdEnd } from './smtpd.ts';

/** A running program with additional descriptors, numbered from 3, that are connected to us. */
export interface ProgramWithDescriptors extends Pick<Smtpd, 'ended' | 'kill'> {
  /** Our ends: bidirectional, half-closed only by us; empty if the program could not be started. */
  readonly descriptors: readonly Socket[];
}

/**
 * Starts a program with our own standard descriptors and `count` additional sockets, numbered from 3.
 *
 * @param command the program, looked for along PATH, and its arguments.
 * @param environment its whole environment.
 */
export function startProgramWithDescriptors(
  command: readonly string[],
  environment: NodeJS.ProcessEnv,
  count: number,
): ProgramWithDescriptors {
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
export function startProgram(command: readonly string[], environment: NodeJS.ProcessEnv): Smtpd {
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
    label: String(child.pid),
    pid: child.pid,
    source: sourceOfStream(child.stdout),
    sink: sinkOfStream(child.stdin),
    ended,
    kill: (signal) => {
      child.kill(signal);
    },
  };
}

function endOf(child: ChildProcess, file: string): Promise<SmtpdEnd> {
  return new Promise((resolve) => {
    child.on('error', (error) => {
      if (child.pid === undefined) resolve(startFailure(file, error));
    });
    child.on('exit', (code, signal) => {
      void describeExit(code, signal).then(resolve);
    });
  });
}

async function describeExit(code: number | null, signal: NodeJS.Signals | null): Promise<SmtpdEnd> {
  if (signal === null) return { status: code ?? 0 };
  // Loaded only here: few programs are killed by a signal, and loading it would slow down every start.
  const { constants } = await import('node:os');
  return { status: 128 + constants.signals[signal], signal };
}

/** An smtpd that could not be started: it sends nothing and discards what is written to it. */
function notStarted(ended: Promise<SmtpdEnd>): Smtpd {
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

function startFailure(file: string, error: unknown): SmtpdEnd {
  const code = errorCode(error);
  return { status: START_STATUSES[code] ?? 126, failure: `cannot run ${file}: ${explain('run', error)}` };
}
