import { fstatSync } from 'node:fs';
import { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { EXIT, errorCode, Failure } from '../program/failure.ts';
import { release } from './descriptor.ts';

/**
 * Opens descriptors 0 and 1, which lead to a network connection, as one stream of Node's. They are given
 * up, both, when it is destroyed.
 *
 * @throws Failure (111) when they are closed, or of another kind (a file, a terminal).
 */
export function openConnection(): Duplex {
  try {
    return openBoth();
  } catch (error) {
    const code = errorCode(error);
    const why = code === 'ERR_INVALID_FD_TYPE' ? 'they lead to no connection' : code;
    throw new Failure(EXIT.systemCallFailed, `unable to talk on descriptors 0 and 1: ${why}`);
  }
}

function openBoth(): Duplex {
  const isOne = fstatSync(0).ino === fstatSync(1).ino;
  const input = new Socket({ fd: 0, readable: true, writable: isOne, allowHalfOpen: true });
  input.on('close', () => release(0));
  // TLS says much in pieces, and a client may keep its acknowledgement for 40 ms. Pipes take no notice.
  input.setNoDelay(true);
  if (isOne) {
    input.on('close', () => release(1));
    return input;
  }
  const output = new Socket({ fd: 1, readable: false, writable: true, allowHalfOpen: true });
  output.on('close', () => release(1));
  return Duplex.from({ readable: input, writable: output });
}

/** Gives up descriptors 0 and 1, which nobody in this process has opened. */
export function releaseConnection(): void {
  release(0);
  release(1);
}
