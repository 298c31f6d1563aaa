import { constants, createHash } from 'node:crypto';
import { isIP, type Socket } from 'node:net';
import { connect, createSecureContext, type SecureContext, type TLSSocket } from 'node:tls';
import { errorCode } from '../program/failure.ts';
import { within } from '../stream/time.ts';
import type { ClientCredentials } from './client-credentials.ts';
import { watchSession } from './established.ts';

/** How servers are verified, and how long a handshake may take. */
export interface TlsClientOptions {
  readonly credentials: ClientCredentials;
  /**
   * SHA-256 digests of public keys (SubjectPublicKeyInfo in DER, RFC 5280 section 4.1), in lower-case hexadecimal digits.
   * If there are any, a server is verified by its key: it must be one of them, and nothing else of its certificate counts.
   */
  readonly pins: readonly string[];
  /** In milliseconds; 0 for no limit. */
  readonly timeout: number;
}

/** A TLS session with a server. */
export interface ServerTls {
  readonly socket: TLSSocket;
  /** Why the server is not verified; undefined if it is. */
  readonly fault: string | undefined;
  /** Protocol and cipher, by OpenSSL's names: "TLSv1.3 TLS_AES_256_GCM_SHA384". */
  readonly description: string;
}

/** The longest time that setTimeout takes, in milliseconds. */
const MAX_TIMEOUT = 2 ** 31 - 1;

/** Does the client side of TLS handshakes. */
export interface TlsClient {
  /**
   * Does one handshake, TLS 1.2 or later. A server that cannot be verified is no failure: the caller decides.
   *
   * @param connection nothing else reads it any more. It is closed when the handshake fails.
   * @param host the name or the address that the certificate must be for; undefined if there is none: then only a pin
   * verifies the server. The server is given names, not addresses (SNI, RFC 6066 section 3).
   * @param exceeded is called with the reason when the session is ended, see `watchSession`.
   * @throws Error with the reason when the handshake fails or takes too long.
   */
  shakeHands(
    connection: Socket,
    host: string | undefined,
    exceeded: (why: string) => void,
  ): Promise<ServerTls>;
}

/** Makes a TLS client for any number of connections. The authorities are parsed once, for the first handshake. */
export function createTlsClient({ credentials, pins, timeout }: TlsClientOptions): TlsClient {
  let secureContext: SecureContext | undefined;
  return {
    shakeHands: async (connection, host, exceeded) => {
      try {
        // No event is emitted for an end in the past.
        if (connection.destroyed) throw new Error('the connection has ended');
        secureContext ??= contextOf(credentials);
        const limit = timeout === 0 ? MAX_TIMEOUT : timeout;
        const socket = await within(limit, shakeHands(connection, host, secureContext));
        if (socket === undefined) throw new Error('the handshake took too long');
        watchSession(connection, socket, () => exceeded('it does not read the answers to its TLS records'));
        return {
          socket,
          fault: faultOf(socket, host, pins),
          description: `${socket.getProtocol() ?? 'unknown'} ${socket.getCipher().name}`,
        };
      } catch (error) {
        connection.destroy();
        throw error;
      }
    },
  };
}

function contextOf({ pairs, authorities }: ClientCredentials): SecureContext {
  return createSecureContext({
    minVersion: 'TLSv1.2',
    // A server could renegotiate and show another certificate.
    secureOptions: constants.SSL_OP_NO_RENEGOTIATION,
    ...(authorities === undefined ? {} : { ca: [...authorities] }),
    cert: pairs.map(({ certificate }) => certificate),
    key: pairs.map(({ key }) => key),
  });
}

function shakeHands(
  connection: Socket,
  host: string | undefined,
  secureContext: SecureContext,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    // Neither a zone id nor the dot of an absolute name is part of what a certificate has.
    const name = host?.replace(/(?:%.*|\.)$/s, '');
    const socket = connect({
      socket: connection,
      secureContext,
      // Checked afterwards, so that a failure can be told from that of a handshake.
      rejectUnauthorized: false,
      ...(name === undefined ? {} : isIP(name) === 0 ? { servername: name } : { host: name }),
    });
    const fail = (error: Error): void => reject(new Error(errorCode(error)));
    const close = (): void => reject(new Error('the connection ended during the handshake'));
    socket.once('error', fail);
    socket.once('close', close);
    socket.once('secureConnect', () => {
      socket.off('error', fail);
      socket.off('close', close);
      // Between now and the first reader there must be a listener.
      socket.on('error', () => {});
      resolve(socket);
    });
  });
}

function faultOf(socket: TLSSocket, host: string | undefined, pins: readonly string[]): string | undefined {
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) return 'no certificate';
  if (pins.length > 0) {
    const key = certificate.publicKey.export({ type: 'spki', format: 'der' });
    const digest = createHash('sha256').update(key).digest('hex');
    return pins.includes(digest) ? undefined : `the key is not pinned: ${digest}`;
  }
  if (host === undefined) return 'a Unix socket has no name, and no key is pinned';
  return socket.authorized ? undefined : String(socket.authorizationError);
}
