import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { chmodSync, copyFileSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { type Served, watch } from './chain.ts';
import { childrenOf, isGone, statusOf, until } from './processes.ts';
import { ours } from './programs.ts';
import { certificate } from './shim.ts';

/** What a test may change. */
export interface ServerSetup {
  /** Changes to the environment, which names a certificate; undefined takes a variable away. */
  readonly environment?: NodeJS.ProcessEnv;
  /** What stands between the options and smtpd; 127.0.0.1 and port 0 by default. */
  readonly listen?: readonly string[];
  /** A command that runs the server, its own words before those of the server. */
  readonly under?: readonly string[];
  /** What the server has on descriptor 0, and on 3 and beyond; nothing by default. */
  readonly stdin?: Extract<SpawnOptions['stdio'], readonly unknown[]>[number];
  readonly descriptors?: Extract<SpawnOptions['stdio'], readonly unknown[]>;
  /** Makes it the first of a process group. */
  readonly detached?: boolean;
}

/** A server that listens. */
export interface RunningServer {
  /** The port of the first listener. */
  readonly port: number;
  /** The ports of all. */
  readonly ports: readonly number[];
  readonly pid: number;
  /** What it, and smtpds below it, have written to stderr so far. */
  stderr(): string;
  /** Settles when stderr matches; rejects when stderr ends without it. */
  logs(pattern: RegExp): Promise<void>;
  /** Settles when the process has ended. */
  readonly ended: Served['ended'];
  signal(name: NodeJS.Signals): void;
  /** Ends what still runs of it, and all below it, and waits for that. */
  close(): Promise<void>;
}

/**
 * Starts smtpd-starttls-server on a port of 127.0.0.1 that the system chooses. The caller is to `close` it.
 *
 * @param options its options; -1 is added.
 * @param smtpd the smtpd and its arguments; empty with --to.
 * @throws Error with its stderr if it exits before it listens.
 */
export async function startServer(
  options: readonly string[],
  smtpd: readonly string[],
  setup: ServerSetup = {},
): Promise<RunningServer> {
  const server = [ours('smtpd-starttls-server'), '-1', ...options];
  const listen = setup.listen ?? ['127.0.0.1', '0'];
  const [file = '', ...args] = [...(setup.under ?? []), ...server, '--', ...listen, ...smtpd];
  const child = spawn(file, args, {
    env: serverEnvironment(setup.environment),
    stdio: [setup.stdin ?? 'ignore', 'pipe', 'pipe', ...(setup.descriptors ?? [])],
    detached: setup.detached === true,
  });
  const watched = watch(child);
  const pid = child.pid ?? 0;

  const close = async (): Promise<void> => {
    const all = isGone(pid) ? [] : familyOf(pid);
    for (const one of all) tryKill(one);
    await watched.ended;
    await until('all processes of the server are gone', () => all.every(isDead));
  };
  try {
    const ports = await readPorts(child, watched.stderr);
    // What it has written to stderr before is readable too, and is read in the same turn of the event loop.
    await setImmediate();
    return {
      port: ports[0] ?? 0,
      ports,
      pid,
      stderr: watched.stderr,
      logs: watched.logs,
      ended: watched.ended,
      signal: (name) => void child.kill(name),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** An smtpd that is there when the server starts, and not any more after `remove`. */
export function passingSmtpd(t: TestContext): { readonly path: string; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), 'passing-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'smtpd');
  symlinkSync('/bin/sh', path);
  return { path, remove: () => rmSync(path) };
}

/** The environment of a server: a certificate, and nothing about how these tests were started. */
export function serverEnvironment(changes: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const { certFile, keyFile } = certificate();
  const { NODE_EXTRA_CA_CERTS, NOTIFY_SOCKET, LISTEN_FDS, LISTEN_PID, ...rest } = process.env;
  return { ...rest, CERTFILE: certFile, KEYFILE: keyFile, ...changes };
}

/** A certificate and a key that every user can read, as `CERTFILE` and `KEYFILE`. */
export function certificateForAll(t: TestContext): NodeJS.ProcessEnv {
  const { certFile, keyFile } = certificate();
  const folder = mkdtempSync(join(tmpdir(), 'public-'));
  t.after(() => rmSync(folder, { recursive: true }));
  chmodSync(folder, 0o755);
  const copies = { CERTFILE: join(folder, 'cert.pem'), KEYFILE: join(folder, 'key.pem') };
  copyFileSync(certFile, copies.CERTFILE);
  copyFileSync(keyFile, copies.KEYFILE);
  for (const file of Object.values(copies)) chmodSync(file, 0o644);
  return copies;
}

/** Reads the ports, which the server writes in one piece when it listens. */
function readPorts(child: ChildProcess, stderr: () => string): Promise<number[]> {
  return new Promise((resolve, reject) => {
    let printed = '';
    child.stdout?.on('data', (bytes: Buffer) => {
      printed += bytes.toString('latin1');
      const ports = /^(?:\d+\n)+/.exec(printed)?.[0];
      if (ports !== undefined) resolve(ports.trimEnd().split('\n').map(Number));
    });
    child.on('error', reject);
    // Not 'exit': its last output may arrive after that.
    child.on('close', (code, signal) =>
      reject(new Error(`the server has ended with ${code ?? signal}: ${stderr()}`)),
    );
  });
}

/** A process and all below it. */
export function familyOf(pid: number): number[] {
  const all = new Set([pid]);
  // Sets grow while they are walked: children of children are found, too.
  for (const one of all) for (const child of tryChildrenOf(one)) all.add(child);
  return [...all];
}

function tryChildrenOf(pid: number): number[] {
  try {
    return childrenOf(pid);
  } catch {
    return [];
  }
}

/** Whether a process is gone, or a zombie: a process without its parent is reaped by the system at any time. */
export function isDead(pid: number): boolean {
  try {
    return statusOf(pid, 'State').startsWith('Z');
  } catch {
    return true;
  }
}

/** Ends a process at once, unless it has ended. */
export function tryKill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has gone by itself.
  }
}
