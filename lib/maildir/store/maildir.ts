import { closeSync, fsyncSync, mkdirSync, openSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { EXIT, errorCode, Failure } from '../../program/failure.ts';

/**
 * Makes a Maildir where there is none yet, or what is missing of it.
 *
 * @throws Failure (111) that says why there cannot be one.
 */
export function createMaildir(maildir: string): void {
  try {
    for (const part of ['tmp', 'new', 'cur']) makeDirectory(resolve(maildir, part));
  } catch (error) {
    throw new Failure(EXIT.systemCallFailed, `unable to make the Maildir ${maildir}: ${errorCode(error)}`);
  }
}

/** Makes a directory and those above it that are missing; all of them survive the loss of power. */
function makeDirectory(path: string): void {
  const parent = dirname(path);
  try {
    makeOne(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT' || parent === path) throw error;
    makeDirectory(parent);
    // Once more, and no oftener: Node's own recursion goes round for ever where a directory is there and
    // takes none, /proc say.
    makeOne(path);
  }
}

/** Makes a directory, if no other process does so at this moment: several begin at once, as a rule. */
function makeOne(path: string): void {
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if (errorCode(error) === 'EEXIST' && statSync(path).isDirectory()) return;
    throw error;
  }
  syncDirectory(dirname(path));
}

/** Waits until what was changed in a directory survives the loss of power. */
export function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** How many names this process has made. */
let count = 0;

/**
 * A name that no other message of any Maildir has (https://cr.yp.to/proto/maildir.html): the time, the
 * microseconds of it, the process, which of its messages this is, and the host.
 */
export function uniqueName(host: string): string {
  count += 1;
  const now = Date.now();
  // Node's clock has milliseconds. What comes below them only helps to tell names apart.
  const micros = (now % 1000) * 1000 + (Math.floor(process.hrtime()[1] / 1000) % 1000);
  // A slash would part the name of a file, and readers part a name at a colon.
  const safeHost = host.replaceAll('/', '\\057').replaceAll(':', '\\072');
  return `${Math.floor(now / 1000)}.M${micros}P${process.pid}Q${count}.${safeHost}`;
}

/** Where a message is on its way into a Maildir. */
export function messagePaths(maildir: string, name: string): { temporary: string; final: string } {
  return { temporary: join(maildir, 'tmp', name), final: join(maildir, 'new', name) };
}
