import { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';

/**
 * A stream over a connection, for TLS to be done over. Only of a wire of our own can be told whether the end
 * of the connection came before that of TLS: Node's TLS engine reads a socket of Node's below all streams.
 *
 * It stays when both its directions have ended, unlike Node's own: the TLS engine goes with what it is over,
 * and with it all that nobody has read yet.
 */
export function wireOver(connection: Duplex): Duplex {
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
 * Calls back when a connection has ended without close_notify, and all that came before is read.
 *
 * @param wire what TLS is done over, made by `wireOver`.
 * @param socket with the handshake done just now.
 */
export function insistOnCloseNotify(wire: Duplex, socket: TLSSocket, missing: () => void): void {
  let hasEnded = false;
  let cut = false;
  // Before the TLS engine learns of it.
  wire.prependListener('end', () => {
    hasEnded = true;
  });
  // The moment to look is when the engine puts the end behind what it has decrypted. The event comes later,
  // when all that is read: by then the end of the connection has come in any case.
  const push = socket.push;
  socket.push = (...args) => {
    if (args[0] === null) cut = hasEnded;
    return push.apply(socket, args);
  };
  socket.on('end', () => {
    if (cut) missing();
  });
}
