import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { explain } from '../program/explain.ts';
import { EXIT, Failure } from '../program/failure.ts';

/** The largest file that is read, in octets; the web's CA certificates take 250 kB. */
const LIMIT = 4 * 1024 * 1024;

/**
 * Reads a file that an administrator has configured, without blocking: a FIFO would block the server until another
 * process writes to it.
 *
 * @param what names the file in messages, such as the variable that contains its path.
 * @param isSecret refuse a file that others than its owner may read or write.
 * @returns the content, at most 4 MiB.
 * @throws Failure: 100 when it is not a regular file or a link to one, is too large, or is not secret; 111 when it cannot
 * be read.
 */
export function readRegularFile(what: string, path: string, isSecret = false): Buffer {
  try {
    const descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const status = fstatSync(descriptor);
      if (!status.isFile()) throw new Failure(EXIT.wrongUsage, 'not a regular file');
      if (isSecret && (status.mode & 0o077) !== 0) {
        const mode = (status.mode & 0o777).toString(8);
        throw new Failure(EXIT.wrongUsage, `its mode must be 600 or stricter, not ${mode}`);
      }
      return readAll(descriptor);
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    const status = error instanceof Failure ? error.status : EXIT.systemCallFailed;
    throw new Failure(status, `unable to read ${what} ${path}: ${explain('read', error)}`);
  }
}

/** Reads to the end: the size may have changed since fstat, or be unknown, as in /proc. */
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
