import type { Socket } from 'node:net';
import type { Writable } from 'node:stream';

/**
 * Whether the system still has a connection with another end. False once it was reset, when nobody reads, too. A
 * socket of Node may tell less: it takes a reset that comes right behind data for an end, and notices none while it
 * does not read or after an end.
 *
 * Node has no documented way to ask: `remoteAddress` is kept. Where its own is missing, only `destroyed` counts.
 */
export function isConnected(socket: Socket): boolean {
  if (socket.destroyed) return false;
  const handle: unknown = Reflect.get(socket, '_handle');
  if (typeof handle !== 'object' || handle === null || !('getpeername' in handle)) return true;
  if (typeof handle.getpeername !== 'function') return true;
  // 0, or the number of an error: ENOTCONN. Nothing for TLS over a stream that is not a socket.
  const error: unknown = handle.getpeername({});
  return typeof error !== 'number' || error === 0;
}

/**
 * How many octets wait in this process for the other end of a stream.
 *
 * For a socket this is the queue of the handle, which shrinks while the system takes part of a write, and which the
 * TLS engine writes to below the stream. Node has no documented way to ask: where its own is missing, it is what
 * the stream holds, which changes when a whole write is done.
 */
export function unsentOctets(stream: Writable): number {
  const handle: unknown = Reflect.get(stream, '_handle');
  if (typeof handle === 'object' && handle !== null && 'writeQueueSize' in handle) {
    const { writeQueueSize } = handle;
    if (typeof writeQueueSize === 'number') return writeQueueSize;
  }
  return stream.writableLength;
}
