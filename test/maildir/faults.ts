import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Server, startServer } from './server.ts';

const SOURCE = fileURLToPath(new URL('faults.c', import.meta.url));

/** A library for LD_PRELOAD, see faults.c. */
export interface FaultLibrary {
  readonly path: string;
  remove(): void;
}

/** Compiles faults.c. */
export function compileFaults(): FaultLibrary {
  const folder = mkdtempSync(join(tmpdir(), 'smtpd-maildir-faults-'));
  const path = join(folder, 'faults.so');
  execFileSync('gcc', ['-shared', '-fPIC', '-O1', '-Wall', '-Wextra', '-Werror', '-o', path, SOURCE]);
  return { path, remove: () => rmSync(folder, { recursive: true }) };
}

/** A server with the library: its calls on the Maildir are logged and made to fail. */
export interface FaultyServer extends Server {
  readonly maildir: string;
  /** The calls and the replies so far, as in the log of faults.c; paths are relative to the Maildir's parent. */
  calls(): string[];
}

/** How to start a server. */
export interface FaultySetup {
  readonly library: FaultLibrary;
  /** Faults in the form that faults.c takes. */
  readonly faults?: readonly string[];
  /** Whether the Maildir exists at the start; true by default. */
  readonly exists?: boolean;
}

/** Starts a server with a new Maildir. Both are removed after the test. */
export function startFaulty(
  t: TestContext,
  { library, faults = [], exists = true }: FaultySetup,
): FaultyServer {
  const folder = mkdtempSync(join(tmpdir(), 'smtpd-maildir-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const maildir = join(folder, 'Maildir');
  if (exists) for (const part of ['tmp', 'new', 'cur']) mkdirSync(join(maildir, part), { recursive: true });
  const log = join(folder, 'log');
  const environment = {
    LD_PRELOAD: library.path,
    FAULTS_FOLDER: folder,
    FAULTS_LOG: log,
    FAULTS: faults.join(' '),
  };
  const server = startServer(t, { args: [maildir], environment });
  return {
    ...server,
    maildir,
    calls: () => (existsSync(log) ? readFileSync(log, 'latin1').split('\n').slice(0, -1) : []),
  };
}

/**
 * A fault: a call that fails.
 *
 * @param call its name in faults.c, or `any`.
 * @param number which call of that name, from 1; 0 for all of them.
 */
export function failing(call: string, number: number, error: keyof typeof constants.errno): string {
  return `${call}:${number}:errno:${constants.errno[error]}`;
}

/** A fault: a signal before any call, the first being number 1. */
export function signalled(number: number, signal: NodeJS.Signals): string {
  return `any:${number}:signal:${constants.signals[signal]}`;
}
