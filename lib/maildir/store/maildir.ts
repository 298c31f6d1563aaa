import { closeSync, fsyncSync, mkdirSync, openSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { explain } from '../../program/explain.ts';
import { EXIT, errorCode, Failure } from '../../program/failure.ts';

/**
 * Creates a Maildir, or the parts of it that are missing.
 *
 * @throws Failure (111) with the reason when a system call fails.
 */
export function createMaildir(maildir: string): void {
  try {
    for (const part of ['tmp', 'new', 'cur']) createDirectories(resolve(maildir, part));
  } catch (error) {
    throw new Failure(
      EXIT.systemCallFailed,
      `unable to create the Maildir ${maildir}: ${explain('write', error)}`,
    );
  }
}

/** Creates a directory and its missing parents; all of them survive a power failure. */
function createDirectories(path: string): void {
  const parent = dirname(path);
  try {
    createDirectory(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT' || parent === path) throw error;
    createDirectories(parent);
    // Only one retry: in a directory like /proc, Node's recursive mkdir loops without end.
    createDirectory(path);
  }
}

/** Creates a directory, or accepts one that exists: several servers may start at the same moment. */
function createDirectory(path: string): void {
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if (errorCode(error) === 'EEXIST' && statSync(path).isDirectory()) return;
    throw error;
  }
  syncDirectory(dirname(path));
}

/** Syncs a directory, so that its entries survive a power failure. */
export function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** The number of names that this process has generated. */
let count = 0;

/**
 * Generates a file name that is unique among all messages (https://cr.yp.to/proto/maildir.html): seconds,
 * microseconds, process id, the number of names generated so far, and the host.
 */
export function uniqueName(host: string): string {
  count += 1;
  const now = Date.now();
  // Date has milliseconds. The digits below are only there to make the name unique.
  const micros = (now % 1000) * 1000 + (Math.floor(process.hrtime()[1] / 1000) % 1000);
  // A slash cannot be part of a file name, and mail readers append flags after a colon.
  const safeHost = host.replaceAll('/', '\\057').replaceAll(':', '\\072');
  return `${Math.floor(now / 1000)}.M${micros}P${process.pid}Q${count}.${safeHost}`;
}

/** The paths of a message in a Maildir, in tmp/ and in new/. */
export function messagePaths(maildir: string, name: string): { temporary: string; final: string } {
  return { temporary: join(maildir, 'tmp', name), final: join(maildir, 'new', name) };
}
