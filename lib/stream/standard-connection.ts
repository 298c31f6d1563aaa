import { fstatSync } from 'node:fs';
import { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { EXIT, errorCode, Failure } from '../program/failure.ts';
import { release } from './descriptor.ts';

/**
 * Opens descriptors 0 and 1, which are a network connection, as one Node stream. Both are released when it is
 * destroyed.
 *
 * @throws Failure (111) if they are closed, or of another kind (a file, a terminal).
 */
export function openStandardConnection(): Duplex {
  try {
    return openBoth();
  } catch (error) {
    const code = errorCode(error);
    const why = code === 'ERR_INVALID_FD_TYPE' ? 'not a network connection' : code;
    throw new Failure(EXIT.systemCallFailed, `unable to use descriptors 0 and 1: ${why}`);
  }
}

function openBoth(): Duplex {
  const isOne = fstatSync(0).ino === fstatSync(1).ino;
  const input = new Socket({ fd: 0, readable: true, writable: isOne, allowHalfOpen: true });
  input.on('close', () => release(0));
  // TLS writes in small pieces, and a client may delay its acknowledgement by 40 ms. No effect on pipes.
  input.setNoDelay(true);
  if (isOne) {
    input.on('close', () => release(1));
    return input;
  }
  const output = new Socket({ fd: 1, readable: false, writable: true, allowHalfOpen: true });
  output.on('close', () => release(1));
  return Duplex.from({ readable: input, writable: output });
}

/** Releases descriptors 0 and 1, which nothing in this process has opened. */
export function releaseStandardConnection(): void {
  release(0);
  release(1);
}
