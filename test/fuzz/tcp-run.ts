import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { type RunningServer, startServer } from '../support/server.ts';
import { playOverTcp } from './tcp-connection.ts';

/** The servers that are played with, by their options. */
const KINDS = [
  { words: [], options: { requireTls: false, plaintextAuth: false, errorLimit: 100 } },
  { words: ['-r'], options: { requireTls: true, plaintextAuth: false, errorLimit: 100 } },
  { words: ['-a'], options: { requireTls: false, plaintextAuth: true, errorLimit: 100 } },
] as const;

/** How long the server may take to connect to smtpd, in milliseconds. */
const ENDED_TIMEOUT = 20_000;

/** What a run has found. */
export interface TcpFinding {
  /** The connection that failed. */
  readonly number: number;
  readonly message: string;
}

/** A server, and the place where its smtpds are: with `--to` they are sockets of ours. */
interface Stage {
  readonly server: RunningServer;
  /** Connects a client. @returns its socket, and that of the smtpd behind the server. */
  enter(): Promise<readonly [Socket, Socket]>;
  close(): Promise<void>;
}

/**
 * Plays generated connections over TCP until one fails.
 *
 * @param seed names the run.
 * @param first the number of the first one.
 * @param count how many.
 * @param atOnce how many at the same time.
 * @param report is called every 10,000 connections with how many were played.
 * @returns undefined when all succeeded.
 */
export async function runOverTcp(
  seed: number,
  first: number,
  count: number,
  atOnce: number,
  report?: (done: number) => void,
): Promise<TcpFinding | undefined> {
  const stages: Stage[] = [];
  let finding: TcpFinding | undefined;
  let next = first;
  async function goOn(): Promise<void> {
    while (next < first + count && finding === undefined) {
      const number = next;
      next += 1;
      try {
        await play(number);
      } catch (error) {
        finding ??= {
          number,
          message: error instanceof Error ? (error.stack ?? error.message) : String(error),
        };
      }
      if ((number - first) % 10_000 === 9999) report?.(number - first + 1);
    }
  }
  async function play(number: number): Promise<void> {
    const at = number % KINDS.length;
    const [kind, stage] = [KINDS[at], stages[at]];
    if (kind === undefined || stage === undefined) throw new Error(`there is no server ${at}`);
    const sockets = await stage.enter();
    try {
      await playOverTcp(seed, number, kind.options, ...sockets);
    } finally {
      for (const socket of sockets) socket.destroy();
    }
  }
  try {
    for (const { words } of KINDS) stages.push(await openStage(words));
    await Promise.all(Array.from({ length: atOnce }, goOn));
    const faults = stages.map(({ server }) => server.stderr()).join('');
    // A process that fails logs it at every level.
    if (faults !== '') finding ??= { number: next, message: `the server has logged ${faults}` };
    return finding;
  } finally {
    await Promise.all(stages.map((stage) => stage.close()));
  }
}

async function openStage(words: readonly string[]): Promise<Stage> {
  const waiting = new Map<number, (smtpd: Socket) => void>();
  const backend = createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, (smtpd) => {
    smtpd.on('error', () => {});
    void readClientPort(smtpd).then((port) => waiting.get(port)?.(smtpd));
  });
  const to = await listen(backend);
  const options = ['-q', '-c', '100', '--to', `127.0.0.1:${to}`, '--send-proxy', 'v1', ...words];
  const server = await startServer(options, []);
  return {
    server,
    enter: async () => {
      const client = connect({ port: server.port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
      client.on('error', () => {});
      await once(client, 'connect');
      const port = client.localPort ?? 0;
      return new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error('no smtpd was started')), ENDED_TIMEOUT);
        waiting.set(port, (smtpd) => {
          clearTimeout(timer);
          waiting.delete(port);
          resolve([client, smtpd]);
        });
      });
    },
    close: async () => {
      await server.close();
      backend.close();
    },
  };
}

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

/** Reads the PROXY header, which identifies the client of this smtpd. Nothing follows it before the greeting. */
async function readClientPort(smtpd: Socket): Promise<number> {
  const header = await new Promise<string>((resolve) => {
    smtpd.once('data', (bytes: Buffer) => {
      smtpd.pause();
      resolve(bytes.toString('latin1'));
    });
    smtpd.resume();
  });
  return Number(/^PROXY TCP4 127\.0\.0\.1 127\.0\.0\.1 (\d+) \d+\r\n$/.exec(header)?.[1]);
}
