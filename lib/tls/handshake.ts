import type { Duplex } from 'node:stream';
import { createServer, type TLSSocket } from 'node:tls';
import { after } from '../stream/time.ts';
import { peekServerName } from './client-hello.ts';
import { type Credentials, credentialsFor, TLS_TERMS } from './credentials.ts';

/** What is asked of a client. */
export interface HandshakeOptions {
  /**
   * `none`: nothing. `optional`: it may show a certificate, which then must be good. `required`: it must
   * show one.
   */
  readonly clientCertificate: 'none' | 'optional' | 'required';
  /** How long the handshake may take, in milliseconds; 0 for no bound. */
  readonly timeout: number;
  /**
   * The protocol that a client must offer if it offers any by ALPN (RFC 7301). A browser that was led to
   * this port offers others, and is refused (the ALPACA attack); undefined for no such check.
   */
  readonly alpn: string | undefined;
}

/** The most that setTimeout takes, in milliseconds. */
const FOR_EVER = 2 ** 31 - 1;

/**
 * Does the server's part of a TLS handshake.
 *
 * @param connection with nothing read from it. It may be half-open when the handshake is done.
 * @throws Error that says why there is no TLS; the connection is closed then, after the alert.
 */
export async function shakeHands(
  connection: Duplex,
  credentials: Credentials,
  options: HandshakeOptions,
): Promise<TLSSocket> {
  const limit = after(options.timeout === 0 ? FOR_EVER : options.timeout);
  const tooLate = limit.passed.then(() => Promise.reject(new Error('the handshake took too long')));
  try {
    const name =
      credentials.byName.size === 0 ? '' : await Promise.race([peekServerName(connection), tooLate]);
    return await Promise.race([serve(connection, credentials, name, options), tooLate]);
  } catch (error) {
    connection.destroy();
    throw error;
  } finally {
    limit.cancel();
  }
}

function serve(
  connection: Duplex,
  credentials: Credentials,
  name: string,
  { clientCertificate, alpn }: HandshakeOptions,
): Promise<TLSSocket> {
  const named = credentialsFor(credentials, name);
  return new Promise((resolve, reject) => {
    const server = createServer({
      // One certificate and no other, lest the client choose.
      ...(named === undefined ? (credentials.standard ?? TLS_TERMS) : TLS_TERMS),
      handshakeTimeout: FOR_EVER,
      requestCert: clientCertificate !== 'none',
      rejectUnauthorized: clientCertificate === 'required',
      SNICallback: (_name, done) => done(null, named),
      ...(alpn === undefined
        ? {}
        : {
            ALPNCallback: ({ protocols }: { protocols: string[] }) =>
              protocols.includes(alpn) ? alpn : undefined,
          }),
    });
    server.on('secureConnection', (socket) => {
      for (const stream of [connection, socket]) stream.allowHalfOpen = true;
      if (clientCertificate === 'none' || socket.authorized || isEmpty(socket)) return resolve(socket);
      socket.destroy();
      reject(badCertificate(socket));
    });
    server.on('tlsClientError', (error, socket) => {
      if (socket.authorizationError) reject(badCertificate(socket));
      else if (named === undefined && credentials.standard === undefined) {
        reject(new Error(`no certificate for ${name === '' ? 'a client that names no server' : name}`));
      } else reject(error);
    });
    // A client that hangs up in the handshake would not be noticed otherwise.
    connection.allowHalfOpen = false;
    server.emit('connection', connection);
  });
}

function badCertificate(socket: TLSSocket): Error {
  return new Error(`the certificate of the client is no good: ${socket.authorizationError}`);
}

function isEmpty(socket: TLSSocket): boolean {
  return socket.getPeerX509Certificate() === undefined;
}
