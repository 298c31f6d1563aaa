import { spawn } from 'node:child_process';
import { closeSync, writeSync } from 'node:fs';
import { explain } from '../../program/explain.ts';
import { EXIT, Failure } from '../../program/failure.ts';
import { inheritedKind, release } from '../../stream/descriptor.ts';
import type { Log } from '../log.ts';

/** Where readiness is announced. */
export interface ReadinessOptions {
  /** Print the port of each listener on stdout, one per line (-1). */
  readonly printsPorts: boolean;
  /** The descriptor that a newline is written to, as s6 expects; undefined for none. */
  readonly notifyDescriptor: number | undefined;
  /** Contains NOTIFY_SOCKET when systemd expects a notification. */
  readonly environment: NodeJS.ProcessEnv;
  readonly log: Log;
}

/**
 * Announces to the parent that the server listens. Call it once, before any smtpd is started.
 *
 * @throws Failure (111) when the descriptor cannot be written.
 */
export function announceReady(ports: readonly number[], options: ReadinessOptions): void {
  if (options.printsPorts) write(1, ports.map((port) => `${port}\n`).join(''));
  if (options.notifyDescriptor !== undefined) notify(options.notifyDescriptor);
  if (options.environment.NOTIFY_SOCKET !== undefined) notifySystemd(options);
}

function notify(descriptor: number): void {
  // A wrong number may refer to a descriptor that Node opened for itself.
  if (inheritedKind(descriptor) === undefined) throw failure(descriptor, 'EBADF');
  write(descriptor, '\n');
  if (descriptor <= 2) release(descriptor);
  else closeSync(descriptor);
}

function write(descriptor: number, text: string): void {
  try {
    writeSync(descriptor, text);
  } catch (error) {
    throw failure(descriptor, error);
  }
}

function failure(descriptor: number, error: unknown): Failure {
  const why = explain('notify', error);
  return new Failure(EXIT.systemCallFailed, `unable to notify readiness on descriptor ${descriptor}: ${why}`);
}

/** Node cannot send datagrams over Unix sockets, so systemd-notify(1) does. */
function notifySystemd({ environment, log }: ReadinessOptions): void {
  const child = spawn('systemd-notify', ['--ready', `--pid=${process.pid}`], {
    env: environment,
    stdio: 'ignore',
    timeout: NOTIFY_TIMEOUT,
  });
  const fail = (why: string): void => log.warning('notify', { text: `unable to run systemd-notify: ${why}` });
  child.on('error', (error) => fail(explain('run', error)));
  child.on('exit', (status, signal) => {
    if (status !== 0) fail(signal ?? `exit status ${status}`);
  });
}

/** How long systemd-notify may run, in milliseconds. */
const NOTIFY_TIMEOUT = 10_000;
