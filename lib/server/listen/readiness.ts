import { spawn } from 'node:child_process';
import { closeSync, writeSync } from 'node:fs';
import { EXIT, errorCode, Failure } from '../../program/failure.ts';
import { inheritedKind, release } from '../../stream/descriptor.ts';
import type { Log } from '../log.ts';

/** Who is to hear that the server listens. */
export interface ReadinessOptions {
  /** Print the port of each listener on stdout, one a line (-1). */
  readonly printsPorts: boolean;
  /** A descriptor that a newline is written to, as s6 wants it; undefined for none. */
  readonly notifyDescriptor: number | undefined;
  /** Has NOTIFY_SOCKET where systemd wants to know. */
  readonly environment: NodeJS.ProcessEnv;
  readonly log: Log;
}

/**
 * Tells whoever has started the server that it listens. To be called once, before smtpd is started.
 *
 * @throws Failure (111) when the descriptor cannot be written.
 */
export function announceReady(ports: readonly number[], options: ReadinessOptions): void {
  if (options.printsPorts) write(1, ports.map((port) => `${port}\n`).join(''));
  if (options.notifyDescriptor !== undefined) notify(options.notifyDescriptor);
  if (options.environment.NOTIFY_SOCKET !== undefined) notifySystemd(options);
}

function notify(descriptor: number): void {
  // A wrong number may well name a descriptor of Node's own.
  if (inheritedKind(descriptor) === undefined) throw failure(descriptor, 'EBADF');
  write(descriptor, '\n');
  if (descriptor <= 2) release(descriptor);
  else closeSync(descriptor);
}

function write(descriptor: number, text: string): void {
  try {
    writeSync(descriptor, text);
  } catch (error) {
    throw failure(descriptor, errorCode(error));
  }
}

function failure(descriptor: number, why: string): Failure {
  const what = `unable to tell on descriptor ${descriptor} that the server is ready`;
  return new Failure(EXIT.systemCallFailed, `${what}: ${why}`);
}

/** Datagrams over Unix sockets are beyond Node, so a program that comes with systemd sends this one. */
function notifySystemd({ environment, log }: ReadinessOptions): void {
  const child = spawn('systemd-notify', ['--ready', `--pid=${process.pid}`], {
    env: environment,
    stdio: 'ignore',
    timeout: NOTIFY_TIMEOUT,
  });
  const fail = (why: string): void => log.warning('notify', { text: `unable to run systemd-notify: ${why}` });
  child.on('error', (error) => fail(errorCode(error)));
  child.on('exit', (status, signal) => {
    if (status !== 0) fail(signal ?? `exit status ${status}`);
  });
}

/** In milliseconds. */
const NOTIFY_TIMEOUT = 10_000;
