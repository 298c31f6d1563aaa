import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type CertificateMaker, makeCertificates, type Pair } from './certificate.ts';
import { type Chain, type Served, serve } from './chain.ts';
import { childrenOf, isGone, until } from './processes.ts';
import { fixture, ours } from './programs.ts';
import { connectSmtp, type SmtpClient } from './smtp-client.ts';
import { DEADLINE, within } from './within.ts';

/** The commands of UCSPI-TLS servers that do right, by name. */
const SERVERS: Readonly<Record<string, () => string[]>> = {
  's6-ucspitlsd': () => fixture('s6-ucspitlsd-double'),
  sslserver: () => fixture('sslserver-double'),
  'a server with one descriptor': () => fixture('misfit-double', '--double=one-descriptor'),
  'ucspi-tlsd': () => [ours('ucspi-tlsd'), '--'],
};

/** Their names. */
export const SERVER_NAMES = Object.keys(SERVERS);

/** How the shim is to be run. */
export interface ShimSetup {
  /** One of `SERVER_NAMES`, s6-ucspitlsd by default, or a kind of misfit-double. */
  readonly server?: string;
  /** Options of the shim. */
  readonly options?: readonly string[];
  /** Options of smtpd-script. */
  readonly smtpd?: readonly string[];
  /** Another smtpd than smtpd-script. */
  readonly command?: readonly string[];
  readonly environment?: NodeJS.ProcessEnv;
}

/** One client, a UCSPI-TLS server, the shim and an smtpd. */
export interface ShimRun {
  readonly client: SmtpClient;
  readonly port: number;
  /** The client's port. */
  readonly clientPort: number;
  /** The UCSPI-TLS server; it ends as the shim does. */
  readonly served: Served;
  /** The process of the shim. */
  shim(): Promise<number>;
  /** The process of the smtpd that was started last; waits for another than `before`. */
  smtpd(before?: number): Promise<number>;
  /** All that smtpd-script has read so far. */
  record(): string;
  /** Settles when smtpd-script has read that. */
  hasRead(text: string): Promise<void>;
  /** Resumes an smtpd that waits for a signal, once it does. */
  release(): Promise<void>;
  /** Settles when the chain has ended; with its exit status, and 128 and more for a signal. */
  status(): Promise<number>;
  /** Settles when no process is left that `shim` or `smtpd` has named, nor a zombie of one. */
  allGone(): Promise<void>;
}

/**
 * Runs the shim for one connection. Processes that still run after the test are killed. Each wait of the client,
 * and the one for the end of the chain, rejects after `DEADLINE`.
 */
export async function runShim(t: TestContext, setup: ShimSetup = {}): Promise<ShimRun> {
  const { certFile, keyFile } = certificate();
  const folder = mkdtempSync(join(tmpdir(), 'shim-'));
  const recordFile = join(folder, 'record');
  const smtpd = setup.command ?? fixture('smtpd-script', `--record=${recordFile}`, ...(setup.smtpd ?? []));
  const shim = [ours('smtpd-starttls-proxy-io'), ...(setup.options ?? []), '--', ...smtpd];
  const chain = await serve([...serverCommand(setup.server), ...shim], {
    CERTFILE: certFile,
    KEYFILE: keyFile,
    // A thread of Node's reads that file at start, and what is spawned meanwhile inherits the descriptor.
    NODE_EXTRA_CA_CERTS: undefined,
    ...setup.environment,
  });
  const client = await connectSmtp(chain.port, { limit: DEADLINE });
  const served = await within(DEADLINE, 'process for the connection', chain.served(0));
  const seen = new Set<number>();
  t.after(() => cleanUp(client, chain, [served.pid, ...seen], folder));

  /** The process that was started last of those that another has started and `isIt` knows. */
  async function youngest(
    parent: number,
    what: string,
    isIt: (command: string, pid: number) => boolean,
  ): Promise<number> {
    let child = 0;
    await until(`there is ${what}`, () => {
      child = tryChildrenOf(parent).findLast((one) => isIt(commandOf(one), one)) ?? 0;
      return child !== 0;
    });
    seen.add(child);
    return child;
  }

  const run: ShimRun = {
    client,
    port: chain.port,
    clientPort: (client.socket() as Socket).localPort ?? 0,
    served,
    shim: () => youngest(served.pid, 'a shim', (command) => command.split('\0')[1] === shim[0]),
    smtpd: async (before) => {
      const parent = await run.shim();
      // Between fork and exec it looks like its parent.
      const own = commandOf(parent);
      return youngest(
        parent,
        'an smtpd',
        (command, pid) => command !== '' && command !== own && pid !== before,
      );
    },
    record: () => readIfThere(recordFile),
    hasRead: (text) => until(`smtpd reads ${text}`, () => run.record().includes(text)),
    release: async () => {
      await until('smtpd waits', () => existsSync(`${recordFile}.waits`));
      process.kill(await run.smtpd(), 'SIGUSR1');
    },
    status: async () => {
      const end = await within(DEADLINE, () => `end of the chain, stderr: ${served.stderr()}`, served.ended);
      const { code, signal } = end;
      return code ?? 128 + (SIGNAL_NUMBERS[signal ?? ''] ?? 0);
    },
    allGone: () =>
      until('all are gone', () =>
        [...seen].every((pid) => isGone(pid) || isAdopted(pid, [served.pid, ...seen])),
      ),
  };
  return run;
}

const SIGNAL_NUMBERS: Readonly<Record<string, number>> = { SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15 };

function serverCommand(name = 's6-ucspitlsd'): string[] {
  return SERVERS[name]?.() ?? fixture('misfit-double', `--double=${name}`);
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, 'latin1');
  } catch {
    return '';
  }
}

async function cleanUp(
  client: SmtpClient,
  chain: Chain,
  pids: readonly number[],
  folder: string,
): Promise<void> {
  client.destroy();
  const all = new Set(pids);
  // Sets grow while they are walked: children of children are found, too.
  for (const pid of all) for (const child of tryChildrenOf(pid)) all.add(child);
  for (const pid of all) tryKill(pid);
  await chain.close();
  rmSync(folder, { recursive: true, force: true });
}

function tryChildrenOf(pid: number): number[] {
  try {
    return childrenOf(pid);
  } catch {
    return [];
  }
}

/** Whether a process is a zombie that lost its parent; another process has to reap it. */
function isAdopted(pid: number, chain: readonly number[]): boolean {
  const status = readIfThere(`/proc/${pid}/status`);
  const parent = Number(/^PPid:\s*(\d+)$/m.exec(status)?.[1]);
  return /^State:\s*Z/m.test(status) && !chain.includes(parent);
}

/** The command line of a process, the words ended by NUL; empty for a zombie. */
function commandOf(pid: number): string {
  return readIfThere(`/proc/${pid}/cmdline`);
}

function tryKill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has gone by itself.
  }
}

let maker: CertificateMaker | undefined;
let pair: Pair | undefined;

/** One certificate for all tests of a file. */
export function certificate(): Pair {
  if (maker === undefined) {
    const made = makeCertificates();
    maker = made;
    process.on('exit', () => made.remove());
  }
  pair ??= maker.selfSigned('mail.example.org');
  return pair;
}

/** Asserts that a chain has written one line to stderr, and what is in it. */
export function assertOneLine(stderr: string, pattern: RegExp): void {
  assert.match(stderr, pattern);
  assert.equal(stderr.split('\n').length, 2, `more than one line: ${stderr}`);
}
