import { constants, createHash } from 'node:crypto';
import { EventEmitter } from 'node:events';
import type { Duplex } from 'node:stream';
import { createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls';
import { errorCode } from '../program/failure.ts';
import { usage } from '../program/options.ts';
import { within } from '../stream/time.ts';
import { peekServerName } from './client-hello.ts';
import { contextOptions, type KeyPair } from './context.ts';
import { type CredentialFiles, credentialsFor } from './credentials.ts';
import { watchSession } from './established.ts';
import { TICKET_KEYS_LENGTH } from './ticket-keys.ts';

/** What a handshake requires of a client. */
export interface HandshakeOptions {
  /**
   * `none`: no certificate is requested. `optional`: a certificate that the client sends must be valid. `required`:
   * it must send one.
   */
  readonly clientCertificate: 'none' | 'optional' | 'required';
  /** How long the handshake may take, in milliseconds; 0 for no limit. */
  readonly timeout: number;
  /**
   * The protocol that a client must offer if it offers any by ALPN (RFC 7301). A browser that an attacker has
   * redirected to this port offers others and is refused (the ALPACA attack). Undefined for no such check.
   */
  readonly alpn: string | undefined;
}

/** The options of a TLS server. */
export interface TlsServerOptions extends HandshakeOptions {
  /** See `TlsServer.setTicketKeys`. Without it the keys are random, and differ between server names. */
  readonly ticketKeys?: Buffer;
}

/** Does the server side of TLS handshakes. */
export interface TlsServer {
  /**
   * Does one handshake. Afterwards the session is checked, see `watchSession`.
   *
   * @param connection no byte of the handshake has been read from it. It may be half-open after the handshake.
   * TLS uses the handle of a net.Socket directly.
   * @param exceeded is called with the reason when the session is ended because the client exceeded a limit.
   * @throws HandshakeFailure with the reason; the connection is closed then, after the alert if OpenSSL sends one.
   * It sends none for an invalid client certificate: Node has OpenSSL accept any certificate, and verifies it after
   * the handshake. A TLS 1.2 client sees the connection end during the handshake, a TLS 1.3 client after it, without
   * close_notify.
   */
  shakeHands(connection: Duplex, exceeded: (why: string) => void): Promise<TLSSocket>;
  /**
   * Sets the keys that session tickets are encrypted with from now on (RFC 5077, RFC 8446 section 4.6.1). Tickets
   * encrypted with the previous keys become invalid; a client with such a ticket does a full handshake. Servers with
   * the same keys, in any process, resume each other's sessions. No session is resumed when client certificates
   * are requested.
   *
   * @param keys 48 octets.
   */
  setTicketKeys(keys: Buffer): void;
}

/** The error of a failed handshake. */
export class HandshakeFailure extends Error {
  /**
   * One of a small set of words, so that failures can be counted by it: `timeout`, `hung-up`, `no-certificate` (for
   * the requested server name), `bad-client-certificate`, or a code of Node or OpenSSL such as ECONNRESET and
   * ERR_SSL_WRONG_VERSION_NUMBER; `other` when there is no code.
   */
  readonly reason: string;

  /**
   * @param reason see the field.
   * @param message for logs.
   */
  constructor(reason: string, message: string) {
    super(message);
    this.reason = reason;
  }
}

/** The longest time that setTimeout takes, in milliseconds. */
const MAX_TIMEOUT = 2 ** 31 - 1;

/**
 * Makes a TLS server for any number of connections. The keys and certificates of a server name are parsed once,
 * when the first client requests it.
 *
 * @throws Error when the ticket keys are not 48 octets; Failure (100) when this version of Node does not support
 * an option.
 */
export function createTlsServer(files: CredentialFiles, options: TlsServerOptions): TlsServer {
  checkAlpn(options);
  const created: Server[] = [];
  let { ticketKeys } = options;

  function lazily(name: string, pairs: readonly KeyPair[]): () => Server {
    let server: Server | undefined;
    return () => {
      if (server !== undefined) return server;
      server = createServer({
        ...contextOptions(pairs, files.authorities),
        ...clientOptions(options),
        sessionIdContext: sessionIdContext(name, pairs),
        ...(ticketKeys === undefined ? {} : { ticketKeys }),
      });
      created.push(server);
      return server;
    };
  }

  // One server per name, with only the certificates of that name, so that no client gets one of another name.
  const standard = lazily('', files.standard);
  const byName = new Map(Object.entries(files.byName).map(([name, pairs]) => [name, lazily(name, pairs)]));
  const setTicketKeys = (keys: Buffer): void => {
    checkTicketKeys(keys);
    ticketKeys = keys;
    for (const server of created) server.setTicketKeys(keys);
  };
  if (ticketKeys !== undefined) setTicketKeys(ticketKeys);

  async function shakeHandsByName(connection: Duplex, exceeded: (why: string) => void): Promise<TLSSocket> {
    const name = await peekServerName(connection).catch(throwHungUp);
    const named = credentialsFor(byName, name);
    const hasNone = named === undefined && files.standard.length === 0;
    const socket = await shakeHandsWith(
      (named ?? standard)(),
      connection,
      options,
      hasNone ? name : undefined,
    );
    watchSession(connection, socket, exceeded);
    // OpenSSL's server name may contain any octets, and is missing in a resumed session of TLS 1.2.
    return Object.assign(socket, { servername: name });
  }

  return {
    shakeHands: (connection, exceeded) =>
      withTimeout(connection, options.timeout, () => shakeHandsByName(connection, exceeded)),
    setTicketKeys,
  };
}

/** Older versions of Node ignore ALPNCallback, and would accept every client. */
function checkAlpn({ alpn }: HandshakeOptions): void {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (alpn !== undefined && (major < 20 || (major === 20 && minor < 4))) {
    throw usage(`--alpn requires Node 20.4 or later, this is ${process.versions.node}`);
  }
}

/** Node would report a wrong length as a failed assertion, without mentioning ticket keys. */
function checkTicketKeys(keys: Buffer): void {
  if (keys.length !== TICKET_KEYS_LENGTH) {
    throw new Error(`ticket keys must have ${TICKET_KEYS_LENGTH} octets, not ${keys.length}`);
  }
}

/**
 * The options of node:tls for what is required of clients.
 *
 * Where certificates are requested, no session is resumed: OpenSSL would take the certificate from the ticket
 * without verifying it, though it may have expired or its CA may have been removed, and the chain needed to verify
 * it is not in the ticket. Without tickets, and without a session cache, which Node leaves to the application, no
 * session can be resumed.
 */
function clientOptions({ clientCertificate, alpn }: HandshakeOptions): TlsOptions {
  const asksClients = clientCertificate !== 'none';
  return {
    // `withTimeout` bounds the whole of it, including the read of the server name.
    handshakeTimeout: MAX_TIMEOUT,
    // Node would let a TLS 1.2 client renegotiate three times on one connection, and send another certificate.
    secureOptions: constants.SSL_OP_NO_RENEGOTIATION | (asksClients ? constants.SSL_OP_NO_TICKET : 0),
    requestCert: asksClients,
    rejectUnauthorized: clientCertificate === 'required',
    ...(alpn === undefined
      ? {}
      : {
          ALPNCallback: ({ protocols }: { protocols: string[] }) =>
            protocols.includes(alpn) ? alpn : undefined,
        }),
  };
}

/**
 * The session ID context: a server resumes only sessions of the same context and ticket keys. Node's default is
 * derived from the command line. Resuming needs no certificate, so a server without one must not resume a session
 * of another server that has the same keys and a certificate for the same name.
 *
 * @returns 32 characters, the maximum in OpenSSL.
 */
function sessionIdContext(name: string, pairs: readonly KeyPair[]): string {
  const all = JSON.stringify([name, pairs.length > 0]);
  return createHash('sha256').update(all).digest('hex').slice(0, 32);
}

/** Does a handshake with a timeout, in milliseconds; 0 for none. The connection is closed on every failure. */
async function withTimeout(
  connection: Duplex,
  timeout: number,
  shakeHands: () => Promise<TLSSocket>,
): Promise<TLSSocket> {
  // While TLS uses the handle of the socket, errors are reported on the TLS socket. An error before or after that
  // must not end the process.
  connection.on('error', () => {});
  try {
    // No event is emitted for an end in the past.
    if (connection.destroyed || connection.readableEnded) throwHungUp(new Error('the connection has ended'));
    const socket = await within(timeout === 0 ? MAX_TIMEOUT : timeout, shakeHands());
    if (socket === undefined) throw new HandshakeFailure('timeout', 'the handshake took too long');
    return socket;
  } catch (error) {
    connection.destroy();
    throw error;
  }
}

/** Converts an error on a connection on which TLS has not begun. @throws HandshakeFailure, always. */
function throwHungUp(error: Error): never {
  throw new HandshakeFailure('hung-up', errorCode(error));
}

/**
 * Does a handshake with a server of node:tls.
 *
 * @param missing the requested name if the server has no certificate for it; undefined if it has one.
 */
function shakeHandsWith(
  server: Server,
  connection: Duplex,
  { clientCertificate }: HandshakeOptions,
  missing: string | undefined,
): Promise<TLSSocket> {
  return new Promise((resolve, reject) => {
    const done = (socket: TLSSocket): void => {
      for (const stream of [connection, socket]) stream.allowHalfOpen = true;
      if (clientCertificate === 'none' || socket.authorized || hasNoCertificate(socket))
        return resolve(socket);
      socket.destroy();
      reject(badCertificate(socket));
    };
    const failed = (error: Error, socket: TLSSocket): void => {
      if (socket.authorizationError) reject(badCertificate(socket));
      else if (missing !== undefined) reject(noCertificate(missing));
      else reject(new HandshakeFailure('code' in error ? errorCode(error) : 'other', errorCode(error)));
    };
    // Otherwise the end of the connection during the handshake would go unnoticed.
    connection.allowHalfOpen = false;
    perConnectionServer(server, done, failed).emit('connection', connection);
  });
}

/**
 * A server for one connection: it shares everything with the given one but receives only the events of its own
 * connection.
 *
 * The events of a server do not identify the connection, and a new server for each connection would parse the
 * certificates each time. But the 'connection' listener of node:tls uses the object that emits the event (`this`) as
 * its server, and emits the later events on that object.
 */
function perConnectionServer(
  server: Server,
  done: (socket: TLSSocket) => void,
  failed: (error: Error, socket: TLSSocket) => void,
): Pick<EventEmitter, 'emit'> {
  const derived: EventEmitter = Object.create(server);
  const outcome = new EventEmitter().on('secureConnection', done).on('tlsClientError', failed);
  derived.emit = (event, ...args) =>
    outcome.listenerCount(event) > 0
      ? outcome.emit(event, ...args)
      : EventEmitter.prototype.emit.call(derived, event, ...args);
  return derived;
}

function badCertificate(socket: TLSSocket): Error {
  return new HandshakeFailure(
    'bad-client-certificate',
    `invalid client certificate: ${socket.authorizationError}`,
  );
}

function noCertificate(name: string): Error {
  return new HandshakeFailure(
    'no-certificate',
    `no certificate for ${name === '' ? 'a client without a server name' : name}`,
  );
}

function hasNoCertificate(socket: TLSSocket): boolean {
  return socket.getPeerX509Certificate() === undefined;
}
