import type { Socket } from 'node:net';
import type { Writable } from 'node:stream';

/**
 * Whether the kernel still has the connection with the peer. False once it was reset, even if nothing reads from it.
 * A Node socket reports less: it takes a reset right after data for an end, and notices no reset while it does not
 * read or after the end.
 *
 * Node has no documented way to ask the kernel (`remoteAddress` is cached), so this uses the `getpeername` of the
 * socket's handle. Where that is missing, the result depends only on `destroyed`.
 */
export function isConnected(socket: Socket): boolean {
  if (socket.destroyed) return false;
  const handle: unknown = Reflect.get(socket, '_handle');
  if (typeof handle !== 'object' || handle === null || !('getpeername' in handle)) return true;
  if (typeof handle.getpeername !== 'function') return true;
  // 0, or an error number such as ENOTCONN. Undefined for TLS over a stream that is not a socket.
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
