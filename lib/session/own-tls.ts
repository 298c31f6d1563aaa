import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { upon } from '../program/deferred.ts';
import { type ByteStream, byteStreamOf, IGNORE } from '../stream/byte-stream.ts';
import { describeSession } from '../tls/description.ts';
import type { TlsServer } from '../tls/handshake.ts';
import { type TlsVariables, tlsEnvironment } from '../ucspi/control.ts';
import type { TlsClient, TlsOffer } from './session.ts';

/** Receives the outcome of a handshake. */
export interface HandshakeListener {
  /** The handshake is done and took `seconds`. */
  done(session: TlsVariables, socket: TLSSocket, seconds: number): void;
  /** The handshake failed. */
  failed(error: unknown): void;
  /** The session was ended later, because the client exceeded a limit within TLS. */
  exceeded(why: string): void;
}

/**
 * Performs the server side of a TLS handshake over a connection that nothing else reads any more.
 *
 * @param abort settles to give up.
 * @throws Error with the reason if the handshake fails; the connection is closed then.
 */
export async function startTls(
  connection: Duplex,
  server: TlsServer,
  listener: HandshakeListener,
  abort: Promise<void>,
): Promise<TlsClient> {
  const startedAt = process.uptime();
  const cancel = upon(abort, () => connection.destroy());
  try {
    const socket = await server.shakeHands(connection, listener.exceeded);
    const session = describeSession(socket);
    listener.done(session, socket, process.uptime() - startedAt);
    const { source, sink } = byteStreamOf(socket, connection);
    return { source, sink, early: NOTHING, environment: tlsEnvironment(session) };
  } catch (error) {
    connection.destroy();
    listener.failed(error);
    throw error;
  } finally {
    cancel();
  }
}

const NOTHING = Buffer.alloc(0);

/**
 * Creates the TLS offer of a program that does TLS itself, over the connection it serves.
 *
 * Bytes that the client sent too early and that were not read go to the TLS engine, which treats them as a broken
 * handshake. They cannot reach smtpd.
 *
 * @param client the two directions of `connection` in cleartext.
 * @param server called when the client asks for TLS, because certificates may be renewed until then.
 */
export function createTlsOffer(
  connection: Duplex,
  client: ByteStream,
  server: () => TlsServer,
  listener: HandshakeListener,
): TlsOffer {
  return {
    decline() {},
    start: (abort) => {
      // The dialogue has ended and must get no events of the handshake.
      client.source.listen(IGNORE);
      client.sink.listen(IGNORE);
      return startTls(connection, server(), listener, abort);
    },
  };
}
