import { connect, type Socket } from 'node:net';
import { type Endpoints, KEEPALIVE } from '../net/endpoints.ts';
import { formatProxyV1, formatProxyV2 } from '../net/proxy-protocol/send.ts';
import { deferred } from '../program/deferred.ts';
import { EXIT, errorCode } from '../program/failure.ts';
import { sinkOfStream, sourceOfStream } from '../stream/byte-stream.ts';
import type { Child, ChildEnd } from '../stream/child.ts';
import { after } from '../stream/time.ts';
import type { StartSmtpd } from './program.ts';

/** An SMTP server on the network that takes the place of a program. */
export interface Backend {
  readonly host: string;
  readonly port: number;
  /** The version of the PROXY protocol in which it is told who the client is. */
  readonly sendProxy: 'v1' | 'v2' | undefined;
}

/** How long it may take to reach it, in milliseconds. */
const CONNECT_TIMEOUT = 30_000;

/**
 * The smtpd that is a server on the network. It is "started" by a connection to it and has ended when the
 * connection has. Signals that ask it to end half-close the connection.
 *
 * @param client the ends of the client's connection; undefined when they are not known.
 */
export function smtpdOverTcp(backend: Backend, client: Endpoints | undefined): StartSmtpd {
  return (tlsEnvironment) => connectTo(backend, proxyHeader(backend, client, tlsEnvironment));
}

function connectTo({ host, port }: Backend, header: Buffer | undefined): Child {
  const socket = connect({ host, port, noDelay: true, ...KEEPALIVE });
  const { promise: ended, resolve } = deferred<ChildEnd>();
  const limit = after(CONNECT_TIMEOUT);
  let told: NodeJS.Signals | undefined;
  let isConnected = false;

  const over = (failure?: string): void => {
    limit.cancel();
    if (told !== undefined) resolve({ status: EXIT.systemCallFailed, signal: told });
    else if (failure !== undefined) resolve({ status: EXIT.systemCallFailed, failure });
    else resolve({ status: EXIT.success });
  };
  void limit.passed.then(() => socket.destroy(new Error('it does not answer')));
  socket.on('connect', () => {
    isConnected = true;
    limit.cancel();
  });
  // Before anybody else hears of it: who learns that its output has ended asks how it ended.
  socket.on('error', (error) =>
    over(`${isConnected ? 'lost' : 'cannot reach'} ${host}:${port}: ${errorCode(error)}`),
  );
  socket.on('end', () => {
    over();
    // Like a program that has ended, it does not get what is still to be written. It might never take it.
    socket.destroy();
  });
  socket.on('close', () => over());
  // First of all that is written, as the protocol wants it.
  if (header !== undefined) socket.write(header);
  return {
    source: sourceOfStream(socket),
    sink: sinkOfStream(socket),
    ended,
    kill: (signal) => {
      told ??= signal;
      if (signal === 'SIGKILL') socket.destroy();
      else hangUp(socket);
    },
  };
}

function hangUp(socket: Socket): void {
  if (socket.connecting) socket.destroy();
  else socket.end();
}

function proxyHeader(
  { sendProxy }: Backend,
  client: Endpoints | undefined,
  tls: Readonly<Record<string, string | undefined>>,
): Buffer | undefined {
  if (sendProxy === undefined) return undefined;
  if (sendProxy === 'v1') return formatProxyV1(client?.remote, client?.local);
  if (tls.SSL_PROTOCOL === undefined) return formatProxyV2(client?.remote, client?.local);
  const subject = tls.SSL_PEER_CERT_SUBJECT;
  return formatProxyV2(client?.remote, client?.local, {
    protocol: tls.SSL_PROTOCOL,
    cipher: tls.SSL_CIPHER,
    commonName: subject === undefined ? undefined : commonNameIn(subject),
    verified: subject !== undefined,
  });
}

/**
 * The common name in a subject (RFC 4514). In values there are backslashes before commas and other special
 * characters: "O=Example\\,CN=admin" has none.
 */
function commonNameIn(subject: string): string | undefined {
  const attributes = subject.match(/(?:[^,\\]|\\.)+/gs) ?? [];
  const name = attributes.find((attribute) => attribute.startsWith('CN='))?.slice(3);
  return name?.replace(/\\(?:([\da-f]{2})|(.))/gis, (_, hex?: string, character = '') =>
    hex === undefined ? character : String.fromCharCode(Number.parseInt(hex, 16)),
  );
}
