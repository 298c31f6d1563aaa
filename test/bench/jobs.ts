/** The jobs that the bench gives to its client, and their results. */
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** Something for the client to do, and the first process of the server that it is done to. */
export type Job = Task & { readonly server: number };

/** What a session does about TLS; with 'none' it is greeting, EHLO and QUIT in cleartext. */
export type Handshake = 'full' | 'resumed' | 'none';

/** Something to do with the server on a port of 127.0.0.1. */
export type Task =
  /**
   * Sessions one after the other, `concurrency` at once; in TLS, each with a message of so many octets, or each
   * `messageEvery`th if that is given.
   */
  | {
      readonly kind: 'sessions';
      readonly port: number;
      readonly seconds: number;
      readonly concurrency: number;
      readonly tls: Handshake;
      readonly message: number;
      readonly messageEvery?: number;
    }
  /** Connections one after the other; the times are from connect to greeting. */
  | { readonly kind: 'greetings'; readonly port: number; readonly seconds: number }
  /** One message of so many octets. */
  | { readonly kind: 'transfer'; readonly port: number; readonly size: number }
  /** Opens sessions, `concurrency` at once, until `count` are held, for so many seconds at the most. */
  | {
      readonly kind: 'hold';
      readonly port: number;
      readonly count: number;
      readonly seconds: number;
      readonly concurrency: number;
    }
  /** Closes those that are held. */
  | { readonly kind: 'release' };

/** What went wrong, and how often. */
export interface Failures {
  count: number;
  /** The first message. */
  first: string;
}

/** What came of a job, and what it has cost while it counted. */
export interface Cost {
  /** Sessions that were carried through, are held, or were released; octets that were sent. */
  readonly count: number;
  /** The time of each, in milliseconds. */
  readonly times: readonly number[];
  /** How many of them were resumed. */
  readonly resumed: number;
  readonly failures: Readonly<Failures>;
  /** How long it took. */
  readonly seconds: number;
  /** The CPU time of the client, in seconds. */
  readonly cpu: number;
  /** That of the server and its processes. */
  readonly serverCpu: number;
}

/** The result of a job. */
export type Answer = Cost | { readonly error: string };

/** The client, as a process. */
export interface Client {
  /** Has a job done. One at a time. @throws Error when it cannot be done, or not in `JOB_LIMIT`. */
  run(job: Job): Promise<Cost>;
  /** Ends it. */
  end(): void;
}

/** How long a job may take, in milliseconds. */
const JOB_LIMIT = 180_000;

/**
 * Starts the client.
 *
 * @param core on which it runs.
 */
export function startClient(core: string): Client {
  const program = fileURLToPath(new URL('load.ts', import.meta.url));
  const { NODE_EXTRA_CA_CERTS, ...env } = process.env;
  const child = spawn('taskset', ['-c', core, process.execPath, '--import', 'tsx', program], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env,
  });
  return {
    run: (job) => ask(child, job),
    end: () => void child.kill(),
  };
}

function ask(child: ChildProcess, job: Job): Promise<Cost> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => settle({ error: `the client takes too long: ${job.kind}` }), JOB_LIMIT);
    function gone(): void {
      settle({ error: 'the client has ended' });
    }
    function settle(answer: Answer): void {
      clearTimeout(timer);
      child.off('message', settle);
      child.off('exit', gone);
      if ('error' in answer) reject(new Error(answer.error));
      else resolve(answer);
    }
    child.on('message', settle);
    child.on('exit', gone);
    child.send(job);
  });
}
