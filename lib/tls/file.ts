import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { EXIT, errorCode, Failure } from '../program/failure.ts';

/** The largest file that is read, in octets; the authorities of the web take 250 kB. */
const LIMIT = 4 * 1024 * 1024;

/**
 * Reads a file that an administrator has named, and waits for nobody: a FIFO would have a server stand still
 * until somebody writes to it.
 *
 * @param what it is, for messages: the variable that names it, say.
 * @returns all of it, 4 MiB at the most.
 * @throws Failure: 100 when it is not a regular file, nor a link to one, or is too large; 111 when it cannot be
 * read.
 */
export function readRegularFile(what: string, path: string): Buffer {
  try {
    const descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      if (!fstatSync(descriptor).isFile()) throw new Failure(EXIT.wrongUsage, 'not a regular file');
      return readAll(descriptor);
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    const status = error instanceof Failure ? error.status : EXIT.systemCallFailed;
    throw new Failure(status, `unable to read ${what} ${path}: ${errorCode(error)}`);
  }
}

/** Reads on where the size was another a moment ago, or is not known, as in /proc. */
function readAll(descriptor: number): Buffer {
  const parts: Buffer[] = [];
  for (let total = 0; ; ) {
    const part = Buffer.alloc(65_536);
    const length = readSync(descriptor, part);
    if (length === 0) return Buffer.concat(parts, total);
    total += length;
    if (total > LIMIT) throw new Failure(EXIT.wrongUsage, `larger than ${LIMIT / 1024 / 1024} MiB`);
    parts.push(part.subarray(0, length));
  }
}
