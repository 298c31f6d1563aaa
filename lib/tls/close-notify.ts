import { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';

/**
 * Wraps a connection in a stream for TLS to run over. Only with such a wrapper is it known whether the
 * connection ended before the TLS session did: Node's TLS engine reads a net.Socket below all streams.
 *
 * Unlike Node's own streams it is not destroyed when both directions have ended: the TLS engine is destroyed
 * with the stream below it, and its unread data with it.
 */
export function wrapConnection(connection: Duplex): Duplex {
  const wire = new Duplex({
    autoDestroy: false,
    read: () => {
      connection.resume();
    },
    write: (bytes, _encoding, done) => {
      connection.write(bytes, done);
    },
    final: (done) => {
      connection.end(() => done());
    },
    destroy: (error, done) => {
      connection.destroy();
      done(error);
    },
  });
  connection.on('data', (bytes) => {
    if (!wire.push(bytes)) connection.pause();
  });
  connection.on('end', () => wire.push(null));
  connection.on('error', (error) => wire.destroy(error));
  connection.on('close', () => {
    if (!connection.readableEnded) wire.destroy();
  });
  return wire;
}

/**
 * Calls `missing` when the connection has ended without close_notify and all data before its end is read.
 *
 * @param wire the stream below TLS, from `wrapConnection`.
 * @param socket has just completed the handshake.
 */
export function requireCloseNotify(wire: Duplex, socket: TLSSocket, missing: () => void): void {
  let hasEnded = false;
  let isTruncated = false;
  // Runs before the TLS engine's own listener.
  wire.prependListener('end', () => {
    hasEnded = true;
  });
  // Checked when the engine queues the end behind the decrypted data. The 'end' event is emitted later, when
  // that data is read, and by then the connection may have ended after a close_notify.
  const push = socket.push;
  socket.push = (...args) => {
    if (args[0] === null) isTruncated = hasEnded;
    return push.apply(socket, args);
  };
  socket.on('end', () => {
    if (isTruncated) missing();
  });
}
