import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { type ByteStream, IGNORE, sinkOfStream, sourceOfStream } from '../stream/byte-stream.ts';
import { describeSession } from '../tls/description.ts';
import type { TlsServer } from '../tls/handshake.ts';
import { type TlsVariables, tlsEnvironment } from '../ucspi/control.ts';
import type { TlsClient, TlsOffer } from './session.ts';

/** Who is told how a handshake went. */
export interface HandshakeListener {
  /** It is done, after so many seconds. */
  done(session: TlsVariables, socket: TLSSocket, seconds: number): void;
  /** There is no TLS. */
  failed(error: unknown): void;
  /** The session was ended later for what the client does in it. */
  exceeded(why: string): void;
}

/**
 * Does the server's part of a TLS handshake over a connection of which nobody else reads any more.
 *
 * @param abort settles when it is to give up.
 * @throws Error that says why there is no TLS; the connection is closed then.
 */
export async function startTls(
  connection: Duplex,
  server: TlsServer,
  listener: HandshakeListener,
  abort: Promise<void>,
): Promise<TlsClient> {
  const begun = process.uptime();
  let isOver = false;
  void abort.then(() => {
    if (!isOver) connection.destroy();
  });
  try {
    const socket = await server.shakeHands(connection, listener.exceeded);
    const session = describeSession(socket);
    listener.done(session, socket, process.uptime() - begun);
    return {
      source: sourceOfStream(socket),
      sink: sinkOfStream(socket, connection),
      early: NOTHING,
      environment: tlsEnvironment(session),
    };
  } catch (error) {
    connection.destroy();
    listener.failed(error);
    throw error;
  } finally {
    isOver = true;
  }
}

const NOTHING = Buffer.alloc(0);

/**
 * Makes the offer of TLS of a program that does TLS itself, over the connection that it speaks on.
 *
 * What the client has said too early, and nobody has read, goes to the TLS engine, which takes it for a
 * broken handshake: it cannot come to smtpd.
 *
 * @param client the two directions of `connection` in cleartext.
 * @param server is asked for when the client wants TLS: certificates may be renewed until then.
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
      // The dialogue has ended, and must not hear of the handshake.
      client.source.listen(IGNORE);
      client.sink.listen(IGNORE);
      return startTls(connection, server(), listener, abort);
    },
  };
}
