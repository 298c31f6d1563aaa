import { constants, createHash } from 'node:crypto';
import { EventEmitter } from 'node:events';
import type { Duplex } from 'node:stream';
import { createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls';
import { errorCode } from '../program/failure.ts';
import { usage } from '../program/options.ts';
import { after } from '../stream/time.ts';
import { peekServerName } from './client-hello.ts';
import { type CredentialFiles, contextOptions, credentialsFor, type KeyPair } from './credentials.ts';
import { closeOnReset, limitUnsent } from './established.ts';
import { TICKET_KEYS_LENGTH } from './ticket-keys.ts';

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

/** What a TLS server is told. */
export interface TlsServerOptions extends HandshakeOptions {
  /** See `TlsServer.setTicketKeys`; random ones, for each server name others, when there are none. */
  readonly ticketKeys?: Buffer;
}

/** Does the server's part of TLS handshakes. */
export interface TlsServer {
  /**
   * Does one handshake.
   *
   * @param connection with nothing of TLS read from it. It may be half-open when the handshake is done. TLS
   * is done over the handle of a net.Socket directly.
   * The session is watched from then on, see `closeOnReset` and `limitUnsent`.
   *
   * @param exceeded is called with the reason when the session is ended for what the client does in it.
   * @throws HandshakeFailure that says why there is no TLS; the connection is closed then, after the alert where
   * OpenSSL sends one. It sends none for a client certificate that is not good: Node has it accept every one,
   * and judges it when the handshake is done. A client of TLS 1.2 sees the connection end in the handshake, one of
   * TLS 1.3 behind it, without close_notify.
   */
  shakeHands(connection: Duplex, exceeded: (why: string) => void): Promise<TLSSocket>;
  /**
   * Sets the keys that session tickets are sealed with from now on (RFC 5077, RFC 8446 section 4.6.1). What
   * was sealed with those before is worth nothing then, and costs its client a whole handshake. Servers with
   * the same keys, in whatever process, resume the sessions of one another, unless client certificates are
   * asked for: then none is resumed.
   *
   * @param keys 48 octets.
   */
  setTicketKeys(keys: Buffer): void;
}

/** Why there is no TLS. */
export class HandshakeFailure extends Error {
  /**
   * In a word, of which there are not many, so that failures may be counted by it: `timeout`, `hung-up`,
   * `no-certificate` (for the server that the client named), `bad-client-certificate`, or a code of
   * Node's or OpenSSL's, as ECONNRESET and ERR_SSL_WRONG_VERSION_NUMBER; `other` where there is none.
   */
  readonly reason: string;

  /**
   * @param reason see there.
   * @param message for people.
   */
  constructor(reason: string, message: string) {
    super(message);
    this.reason = reason;
  }
}

/** The most that setTimeout takes, in milliseconds. */
const FOR_EVER = 2 ** 31 - 1;

/**
 * Makes a TLS server, for any number of connections. Keys and certificates are parsed when the first client
 * asks for them, and not again.
 *
 * @throws Error when the ticket keys are not 48 octets; Failure (100) when this Node cannot do what is asked.
 */
export function createTlsServer(files: CredentialFiles, options: TlsServerOptions): TlsServer {
  checkAlpn(options);
  const made: Server[] = [];
  let { ticketKeys } = options;

  function lazily(name: string, pairs: readonly KeyPair[]): () => Server {
    let server: Server | undefined;
    return () => {
      if (server !== undefined) return server;
      server = createServer({
        ...contextOptions(pairs, files.authorities),
        ...askingOptions(options),
        sessionIdContext: sessionIdContext(name, pairs),
        ...(ticketKeys === undefined ? {} : { ticketKeys }),
      });
      made.push(server);
      return server;
    };
  }

  // A server a name with its certificates and no others, lest the client choose one of another name.
  const standard = lazily('', files.standard);
  const byName = new Map(Object.entries(files.byName).map(([name, pairs]) => [name, lazily(name, pairs)]));
  const setTicketKeys = (keys: Buffer): void => {
    checkTicketKeys(keys);
    ticketKeys = keys;
    for (const server of made) server.setTicketKeys(keys);
  };
  if (ticketKeys !== undefined) setTicketKeys(ticketKeys);

  async function serve(connection: Duplex, exceeded: (why: string) => void): Promise<TLSSocket> {
    const name = await peekServerName(connection).catch(hungUp);
    const named = credentialsFor(byName, name);
    const hasNone = named === undefined && files.standard.length === 0;
    const socket = await shakeHandsWith(
      (named ?? standard)(),
      connection,
      options,
      hasNone ? name : undefined,
    );
    closeOnReset(connection, socket);
    limitUnsent(connection, socket, exceeded);
    // OpenSSL's may consist of any octets, and there is none when it resumes a session of TLS 1.2.
    return Object.assign(socket, { servername: name });
  }

  return {
    shakeHands: (connection, exceeded) =>
      withinLimit(connection, options.timeout, () => serve(connection, exceeded)),
    setTicketKeys,
  };
}

/** Older versions of Node take no notice of a protocol that is asked for, and would let everybody in. */
function checkAlpn({ alpn }: HandshakeOptions): void {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (alpn !== undefined && (major < 20 || (major === 20 && minor < 4))) {
    throw usage(`--alpn needs Node 20.4, and this is ${process.versions.node}`);
  }
}

/** Node would take the length for a programming error, and say nothing of tickets. */
function checkTicketKeys(keys: Buffer): void {
  if (keys.length !== TICKET_KEYS_LENGTH) {
    throw new Error(`ticket keys have ${TICKET_KEYS_LENGTH} octets, not ${keys.length}`);
  }
}

/**
 * What node:tls is to be told of that which is asked of clients.
 *
 * Where certificates are asked for, no session is resumed: OpenSSL takes the certificate out of the ticket
 * then, unseen, though it may have expired or its authority be gone, and the chain, which it would take to
 * verify it again, is not in there. Without tickets and without a cache, which Node leaves to its users,
 * nothing is there to be resumed.
 */
function askingOptions({ clientCertificate, alpn }: HandshakeOptions): TlsOptions {
  const asks = clientCertificate !== 'none';
  return {
    // There is a bound around all that is done here, not only around Node's part of it.
    handshakeTimeout: FOR_EVER,
    // Node would let a client of TLS 1.2 have three more handshakes for the price of one connection, and show
    // another certificate in them.
    secureOptions: constants.SSL_OP_NO_RENEGOTIATION | (asks ? constants.SSL_OP_NO_TICKET : 0),
    requestCert: asks,
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
 * What a session must have in common with a server to be resumed by it, beside the ticket keys. Node would
 * take the command line. Resuming takes no certificate, so a server without one must not do it: another one
 * with the same keys may have one for the same name.
 *
 * @returns 32 characters, the most that OpenSSL takes.
 */
function sessionIdContext(name: string, pairs: readonly KeyPair[]): string {
  const all = JSON.stringify([name, pairs.length > 0]);
  return createHash('sha256').update(all).digest('hex').slice(0, 32);
}

/** Does what `serve` does, with an end to it. Whatever the failure, the connection is closed. */
async function withinLimit(
  connection: Duplex,
  timeout: number,
  serve: () => Promise<TLSSocket>,
): Promise<TLSSocket> {
  const limit = after(timeout === 0 ? FOR_EVER : timeout);
  const tooLate = limit.passed.then(() => {
    throw new HandshakeFailure('timeout', 'the handshake took too long');
  });
  // While TLS has the handle of a socket, a failure of it shows there. What comes before or after must not
  // end the process.
  connection.on('error', () => {});
  try {
    // Of an end in the past no event will tell.
    if (connection.destroyed || connection.readableEnded) hungUp(new Error('the connection has ended'));
    return await Promise.race([serve(), tooLate]);
  } catch (error) {
    connection.destroy();
    throw error;
  } finally {
    limit.cancel();
  }
}

/** Turns an error on a connection on which TLS has not begun into one of ours. */
function hungUp(error: Error): never {
  throw new HandshakeFailure('hung-up', errorCode(error));
}

/**
 * Does a handshake with a server of node:tls.
 *
 * @param missing the name for which the server has no certificate, as far as that is so.
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
      if (clientCertificate === 'none' || socket.authorized || isEmpty(socket)) return resolve(socket);
      socket.destroy();
      reject(badCertificate(socket));
    };
    const failed = (error: Error, socket: TLSSocket): void => {
      if (socket.authorizationError) reject(badCertificate(socket));
      else if (missing !== undefined) reject(noCertificate(missing));
      else reject(new HandshakeFailure('code' in error ? errorCode(error) : 'other', errorCode(error)));
    };
    // A client that hangs up in the handshake would not be noticed otherwise.
    connection.allowHalfOpen = false;
    privateChannel(server, done, failed).emit('connection', connection);
  });
}

/**
 * A server for one connection that shares all with the one given but hears of its own connection alone.
 *
 * A server tells of a handshake by events that do not say on which connection it was, and a server for each
 * would parse its certificates each time. But what listens to 'connection' in node:tls takes the object that
 * the event comes from (`this`) for its server, and tells that one how it went on.
 */
function privateChannel(
  server: Server,
  done: (socket: TLSSocket) => void,
  failed: (error: Error, socket: TLSSocket) => void,
): Pick<EventEmitter, 'emit'> {
  const channel: EventEmitter = Object.create(server);
  const told = new EventEmitter().on('secureConnection', done).on('tlsClientError', failed);
  channel.emit = (event, ...args) =>
    told.listenerCount(event) > 0
      ? told.emit(event, ...args)
      : EventEmitter.prototype.emit.call(channel, event, ...args);
  return channel;
}

function badCertificate(socket: TLSSocket): Error {
  return new HandshakeFailure(
    'bad-client-certificate',
    `the certificate of the client is no good: ${socket.authorizationError}`,
  );
}

function noCertificate(name: string): Error {
  return new HandshakeFailure(
    'no-certificate',
    `no certificate for ${name === '' ? 'a client that names no server' : name}`,
  );
}

function isEmpty(socket: TLSSocket): boolean {
  return socket.getPeerX509Certificate() === undefined;
}
