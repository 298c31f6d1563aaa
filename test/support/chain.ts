import { type ChildProcess, spawn } from 'node:child_process';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';

/** A process that serves one connection. */
export interface Served {
  readonly pid: number;
  /** Settles when the process has ended. */
  readonly ended: Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }>;
  /** What it and the processes below it have written to stderr so far. */
  stderr(): string;
  /** Settles when stderr matches; rejects when stderr ends without it. */
  logs(pattern: RegExp): Promise<void>;
  kill(signal: NodeJS.Signals): void;
}

/** A listener that starts a command for each connection, as tcpserver does. */
export interface Chain {
  readonly port: number;
  /** The process that serves the connection with this number, from 0. */
  served(index: number): Promise<Served>;
  /** Stops listening, ends what still runs, and waits for it. */
  close(): Promise<void>;
}

/**
 * Listens on 127.0.0.1 and starts a command for each connection, with the connection on descriptors 0 and 1
 * and the UCSPI variables of tcpserver.
 *
 * @param environment changes to the environment; `NO_UCSPI_TCP` for what inetd sets.
 * @param host where to listen instead.
 */
export async function serve(
  command: readonly string[],
  environment: NodeJS.ProcessEnv = {},
  host = '127.0.0.1',
): Promise<Chain> {
  const all: Served[] = [];
  const waiting: (() => void)[] = [];
  const server: Server = createServer({ pauseOnConnect: true }, (socket) => {
    all.push(start(command, { ...process.env, ...ucspiTcp(socket), ...environment }, socket));
    // The process has descriptors of its own now.
    socket.destroy();
    for (const wake of waiting.splice(0)) wake();
  });
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  const { port } = server.address() as AddressInfo;
  return {
    port,
    served: async (index) => {
      for (;;) {
        const one = all[index];
        if (one !== undefined) return one;
        await new Promise<void>((resolve) => waiting.push(resolve));
      }
    },
    close: async () => {
      server.close();
      for (const one of all) one.kill('SIGKILL');
      await Promise.all(all.map((one) => one.ended));
    },
  };
}

/** No variables of tcpserver: inetd sets none. */
export const NO_UCSPI_TCP: NodeJS.ProcessEnv = {
  PROTO: undefined,
  TCPREMOTEIP: undefined,
  TCPREMOTEPORT: undefined,
  TCPLOCALIP: undefined,
  TCPLOCALPORT: undefined,
};

function ucspiTcp(socket: Socket): NodeJS.ProcessEnv {
  return {
    PROTO: 'TCP',
    TCPREMOTEIP: socket.remoteAddress,
    TCPREMOTEPORT: String(socket.remotePort),
    TCPLOCALIP: socket.localAddress,
    TCPLOCALPORT: String(socket.localPort),
  };
}

function start(command: readonly string[], env: NodeJS.ProcessEnv, socket: Socket): Served {
  const [file = '', ...args] = command;
  const child = spawn(file, args, { env, stdio: [socket, socket, 'pipe'] });
  return { ...watch(child), pid: child.pid ?? 0 };
}

/** How long the last output of a process may take to arrive, in milliseconds. */
const LAST_OUTPUT = 500;

/** Watches a process that was started with its stderr on a pipe. */
export function watch(child: ChildProcess): Omit<Served, 'pid'> {
  let written = '';
  let over = false;
  const checks = new Set<() => void>();
  const check = (): void => {
    for (const one of checks) one();
  };
  child.stderr?.on('data', (bytes: Buffer) => {
    written += bytes.toString('latin1');
    check();
  });
  child.stderr?.on('end', () => {
    over = true;
    check();
  });
  return {
    ended: new Promise((resolve, reject) => {
      // With its last output read, unless a process that it has left behind keeps its stderr open.
      child.on('close', (code, signal) => resolve({ code, signal }));
      child.on('exit', (code, signal) => setTimeout(resolve, LAST_OUTPUT, { code, signal }));
      child.on('error', reject);
    }),
    stderr: () => written,
    logs: (pattern) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          if (pattern.test(written)) resolve();
          else if (over) reject(new Error(`stderr has ended without ${pattern}: ${written}`));
          else return;
          checks.delete(look);
        };
        checks.add(look);
        look();
      }),
    kill: (signal) => {
      child.kill(signal);
    },
  };
}
