/** A remote SMTP server to pass mail on to. It records what it receives, and behaves as badly as a test wants. */

import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer, type ListenOptions, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TestContext } from 'node:test';
import { createSecureContext, TLSSocket } from 'node:tls';
import type { Pair } from './certificate.ts';

/** How a server behaves. */
export interface FarServerOptions {
  /** Its certificate; undefined for a server without TLS. */
  readonly pair?: Pair;
  /** A client certificate of this authority is required. */
  readonly authority?: string;
  /** TLS with the first byte. */
  readonly implicit?: boolean;
  /** What STARTTLS is answered with, as it is sent; "220 go" by default. No TLS follows any other code, and 421 closes. */
  readonly starttls?: string;
  /** With the first byte of the handshake, the connection is closed, or this is sent. */
  readonly breaksHandshake?: true | string;
  /** Replies by command, in place of the usual ones; "greeting" is one. */
  readonly replies?: Readonly<Record<string, string>>;
  /** The lines of the reply to EHLO behind the first, but for STARTTLS. */
  readonly offers?: readonly string[];
}

/** One connection of a server. */
export interface FarConnection {
  /** All that was received in cleartext and in TLS, latin1. In cleartext this includes a handshake. */
  cleartext: string;
  tls: string;
  /** The server name of the handshake. */
  serverName: string | false | undefined;
  /** The common name in the client certificate. */
  clientName: string | undefined;
  isAuthenticated: boolean;
  /** How the message has arrived. */
  delivered: 'in cleartext' | 'in TLS' | undefined;
  readonly socket: Socket;
}

/** A running server. */
export interface FarServer {
  readonly port: number;
  readonly connections: readonly FarConnection[];
}

/** Starts a server on a port of 127.0.0.1, or elsewhere, until the test ends. */
export async function startFarServer(
  t: TestContext,
  options: FarServerOptions,
  where: ListenOptions = { host: '127.0.0.1', port: 0 },
): Promise<FarServer> {
  const connections: FarConnection[] = [];
  const listener = createServer((socket) => {
    socket.on('error', () => {});
    const connection: FarConnection = {
      ...{
        cleartext: '',
        tls: '',
        serverName: undefined,
        clientName: undefined,
        isAuthenticated: false,
        delivered: undefined,
      },
      socket,
    };
    connections.push(connection);
    serve(connection, options);
  });
  listener.listen(where);
  await once(listener, 'listening');
  t.after(() => {
    for (const { socket } of connections) socket.destroy();
    listener.close();
  });
  const address = listener.address();
  return { port: typeof address === 'string' ? 0 : (address as AddressInfo).port, connections };
}

function serve(connection: FarConnection, options: FarServerOptions): void {
  if (options.implicit === true) return startTls(connection, options);
  connection.socket.on('data', (bytes: Buffer) => {
    connection.cleartext += bytes.toString('latin1');
  });
  converse(connection, connection.socket, options);
}

function startTls(connection: FarConnection, options: FarServerOptions): void {
  const { socket } = connection;
  const { breaksHandshake } = options;
  if (breaksHandshake === true) return void socket.once('data', () => socket.destroy());
  if (breaksHandshake !== undefined) return void socket.once('data', () => socket.write(breaksHandshake));
  const { certFile = '', keyFile = '' } = options.pair ?? {};
  const secureContext = createSecureContext({
    cert: readFileSync(certFile),
    key: readFileSync(keyFile),
    ...(options.authority === undefined ? {} : { ca: readFileSync(options.authority) }),
  });
  const secure = new TLSSocket(socket, {
    isServer: true,
    secureContext,
    requestCert: options.authority !== undefined,
    rejectUnauthorized: options.authority !== undefined,
  });
  secure.on('error', () => {});
  secure.on('secure', () => {
    connection.serverName = secure.servername ?? false;
    connection.clientName = secure.getPeerX509Certificate()?.subject.replace(/^CN=/, '');
  });
  secure.on('data', (bytes: Buffer) => {
    connection.tls += bytes.toString('latin1');
  });
  converse(connection, secure, options, options.implicit !== true);
}

/** Removes a PROXY header of version 2 in front. */
function withoutHeader(input: string): string {
  const header = /^\r\n\r\n\0\r\nQUIT\n..(.)(.)/s.exec(input);
  if (header === null) return input;
  const [, high = '', low = ''] = header;
  return input.slice(16 + 256 * high.charCodeAt(0) + low.charCodeAt(0));
}

function converse(
  connection: FarConnection,
  stream: Duplex,
  { replies = {}, offers = ['AUTH PLAIN LOGIN', 'PIPELINING'], ...options }: FarServerOptions,
  isStarted = false,
): void {
  const isTls = stream instanceof TLSSocket;
  let input = '';
  let inMessage = false;
  let isOver = false;
  const send = (text: string): void => void stream.write(`${text}\r\n`, 'latin1');

  function handle(line: string): void {
    if (inMessage) {
      if (line !== '.') return;
      inMessage = false;
      connection.delivered = isTls ? 'in TLS' : 'in cleartext';
      return send('250 2.0.0 stored');
    }
    const verb = line.split(' ')[0]?.toUpperCase() ?? '';
    // A header of version 1 is not a command.
    if (verb === 'PROXY') return;
    const reply = replies[verb];
    if (reply !== undefined) return send(reply);
    if (verb === 'EHLO' || verb === 'LHLO') {
      const starttls = !isTls && options.pair !== undefined ? ['STARTTLS'] : [];
      const lines = ['far.example', ...offers, ...starttls];
      return send(lines.map((text, at) => `250${at === lines.length - 1 ? ' ' : '-'}${text}`).join('\r\n'));
    }
    if (verb === 'STARTTLS' && !isTls) {
      const answer = options.starttls ?? '220 go';
      send(answer);
      if (answer.startsWith('421')) {
        isOver = true;
        stream.end();
      }
      if (!answer.startsWith('220')) return;
      isOver = true;
      stream.removeAllListeners('data');
      return startTls(connection, { replies, offers, ...options });
    }
    if (verb === 'AUTH') connection.isAuthenticated = true;
    if (verb === 'DATA') inMessage = true;
    if (verb === 'QUIT') {
      isOver = true;
      return void stream.end('221 bye\r\n');
    }
    send(verb === 'AUTH' ? '235 2.7.0 welcome' : verb === 'DATA' ? '354 go' : '250 ok');
  }

  if (!isStarted) send(replies.greeting ?? '220 far.example ready');
  stream.on('data', (bytes: Buffer) => {
    input = withoutHeader(input + bytes.toString('latin1'));
    for (let end = input.indexOf('\r\n'); end >= 0 && !isOver; end = input.indexOf('\r\n')) {
      const line = input.slice(0, end);
      input = input.slice(end + 2);
      handle(line);
    }
  });
}
