import type { Duplex } from 'node:stream';
import { createServer, type TLSSocket } from 'node:tls';
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
 * @param connection with nothing read from it.
 * @throws Error that says why there is no TLS; the connection is closed then, after the alert.
 */
export function shakeHands(
  connection: Duplex,
  credentials: Credentials,
  { clientCertificate, timeout, alpn }: HandshakeOptions,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const server = createServer({
      ...(credentials.standard ?? TLS_TERMS),
      handshakeTimeout: timeout === 0 ? FOR_EVER : timeout,
      requestCert: clientCertificate !== 'none',
      rejectUnauthorized: clientCertificate === 'required',
      SNICallback: (name, done) => {
        const context = credentialsFor(credentials, name);
        if (context === undefined && credentials.standard === undefined) {
          done(new Error(`no certificate for ${name}`));
        } else done(null, context);
      },
      ...(alpn === undefined
        ? {}
        : {
            ALPNCallback: ({ protocols }: { protocols: string[] }) =>
              protocols.includes(alpn) ? alpn : undefined,
          }),
    });
    server.on('secureConnection', (socket) => {
      if (clientCertificate === 'none' || socket.authorized || isEmpty(socket)) return resolve(socket);
      socket.destroy();
      reject(new Error(`the certificate of the client is no good: ${socket.authorizationError}`));
    });
    server.on('tlsClientError', reject);
    server.emit('connection', connection);
  });
}

function isEmpty(socket: TLSSocket): boolean {
  return socket.getPeerX509Certificate() === undefined;
}
