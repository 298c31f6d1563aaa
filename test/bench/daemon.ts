/** A server that is measured: started, found listening, ended with all its processes. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { SEARCH_PATH } from './path.ts';
import { processesOf } from './processes.ts';

/** How long a server may take until it listens, and until it has ended, in milliseconds. */
const START_LIMIT = 10_000;
const END_LIMIT = 3_000;

/** How many files a process may have open, if the system allows so many: a thousand sessions take some each. */
const OPEN_FILES = 20_000;

/** The first processes of servers that have not been ended. */
const running = new Set<number>();

/** Kills all servers at once, for when the bench itself ends early. */
export function killAll(): void {
  for (const leader of running) for (const { pid } of processesOf(leader)) send(pid, 'SIGKILL');
}

/** A server that runs. */
export interface Daemon {
  readonly pid: number;
  /** Where it listens on 127.0.0.1. */
  readonly port: number;
  /** The last lines that it and its programs have written to stderr. */
  closingReplies(): string;
  /** Ends it and all its processes; none is left when the promise settles. */
  end(): Promise<void>;
}

/** How to start a server. */
export interface Launch {
  readonly command: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** The port, for a server that cannot choose one; else it prints the one that it has chosen on stdout. */
  readonly port?: number;
}

/**
 * Starts a server and waits until it listens.
 *
 * @param cores on which it and its children run, as taskset takes them.
 * @param log the file for its stderr: a pipe would have this process work while others are measured.
 * @throws Error that holds its last words, when it does not come up.
 */
export async function startDaemon(launch: Launch, cores: string, log: string): Promise<Daemon> {
  const script = `ulimit -n ${OPEN_FILES} 2>/dev/null || ulimit -n $(ulimit -Hn); exec "$@"`;
  const { NODE_EXTRA_CA_CERTS, NODE_OPTIONS, ...inherited } = process.env;
  const stderr = openSync(log, 'w');
  // In a session of its own, by which its processes are found even if their parents have exited.
  const child = spawn('taskset', ['-c', cores, 'sh', '-c', script, 'sh', ...launch.command], {
    env: { ...inherited, PATH: SEARCH_PATH, ...launch.env },
    stdio: ['ignore', 'pipe', stderr],
    detached: true,
  });
  closeSync(stderr);
  const { pid } = child;
  if (pid === undefined) throw new Error('taskset cannot be started');
  running.add(pid);
  const closingReplies = (): string => readFileSync(log, 'utf8').slice(-500).trim();
  const end = (): Promise<void> => endSession(pid);
  const limit = AbortSignal.timeout(START_LIMIT);
  const gone = once(child, 'exit').then(() => Promise.reject(new Error('it has ended')));
  gone.catch(() => {});
  try {
    const listening =
      launch.port === undefined ? readPort(child.stdout, limit) : untilListening(launch.port, limit);
    const port = await Promise.race([listening, gone]);
    return { pid, port, closingReplies, end };
  } catch (error) {
    await end();
    throw new Error(`${error instanceof Error ? error.message : String(error)}: ${closingReplies()}`);
  }
}

async function readPort(output: Readable | null, signal: AbortSignal): Promise<number> {
  if (output === null) throw new Error('its stdout is no pipe');
  const lines = createInterface({ input: output });
  const [line] = await once(lines, 'line', { signal });
  const port = Number(line);
  if (!Number.isInteger(port)) throw new Error(`expected a port, not ${line}`);
  return port;
}

async function untilListening(port: number, signal: AbortSignal): Promise<number> {
  for (;;) {
    signal.throwIfAborted();
    const socket = connect(port, '127.0.0.1');
    try {
      await once(socket, 'connect');
      return port;
    } catch {
      await sleep(20);
    } finally {
      socket.destroy();
    }
  }
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

/** Ends all processes of a session: asks them first. */
async function endSession(leader: number): Promise<void> {
  const limit = Date.now() + END_LIMIT;
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    for (;;) {
      const left = processesOf(leader);
      if (left.length === 0) {
        running.delete(leader);
        return;
      }
      for (const { pid } of left) send(pid, signal);
      if (signal === 'SIGTERM' && Date.now() > limit) break;
      if (Date.now() > limit + END_LIMIT) throw new Error(`process ${left[0]?.pid} does not end`);
      await sleep(50);
    }
  }
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended by itself.
  }
}
