import type { Socket } from 'node:net';

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
