import { connect } from 'node:net';
import { type Endpoints, KEEPALIVE } from '../net/endpoints.ts';
import { formatServerAddress, type ServerAddress } from '../net/host-port.ts';
import { formatProxyV1, formatProxyV2 } from '../net/proxy-protocol/send.ts';
import { byteStreamOf } from '../stream/byte-stream.ts';
import { after } from '../stream/time.ts';
import { smtpdOnConnection } from './connection.ts';
import type { StartSmtpd } from './program.ts';
import type { Smtpd } from './smtpd.ts';

/** An SMTP server that is connected to, over TCP or a Unix socket, and used instead of a program. */
export interface Backend {
  readonly address: ServerAddress;
  /** The version of the PROXY protocol header that carries the client's address; undefined for no header. */
  readonly sendProxy: 'v1' | 'v2' | undefined;
}

/** The connect timeout, in milliseconds. */
const CONNECT_TIMEOUT = 30_000;

/**
 * An smtpd that is a server, on the network or on a Unix socket. It is started by a connection to it and ends with that
 * connection. SIGKILL closes the connection; any other signal half-closes it.
 *
 * @param client the addresses of the client's connection; undefined if they are not known.
 */
export function remoteSmtpd(backend: Backend, client: Endpoints | undefined): StartSmtpd {
  return (tlsEnvironment) => connectTo(backend, proxyHeader(backend.sendProxy, client, tlsEnvironment));
}

function connectTo({ address }: Backend, header: Buffer | undefined): Smtpd {
  // A Unix socket has neither delay nor keepalive, and Node ignores both there.
  const socket = connect({ ...address, noDelay: true, ...KEEPALIVE });
  const limit = after(CONNECT_TIMEOUT);
  let isConnected = false;
  const smtpd = smtpdOnConnection({
    socket,
    stream: byteStreamOf(socket),
    name: formatServerAddress(address),
    isUnix: 'path' in address,
    failed: () => (isConnected ? 'lost' : 'cannot reach'),
  });
  void limit.passed.then(() => socket.destroy(new Error('timed out')));
  void smtpd.ended.then(limit.cancel);
  socket.on('connect', () => {
    isConnected = true;
    limit.cancel();
  });
  // The PROXY protocol requires it before all other bytes.
  if (header !== undefined) socket.write(header);
  return smtpd;
}

/**
 * The PROXY protocol header for a connection to a server.
 *
 * @param client the addresses of the client's connection; undefined if they are not known.
 * @param tls the variables that describe the client's TLS session, sent by version 2.
 * @returns undefined for no header.
 */
export function proxyHeader(
  sendProxy: Backend['sendProxy'],
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
 * The common name in a subject (RFC 4514). In values, commas and other special characters are escaped with a
 * backslash: "O=Example\\,CN=admin" has no common name.
 */
function commonNameIn(subject: string): string | undefined {
  const attributes = subject.match(/(?:[^,\\]|\\.)+/gs) ?? [];
  const name = attributes.find((attribute) => attribute.startsWith('CN='))?.slice(3);
  return name?.replace(/\\(?:([\da-f]{2})|(.))/gis, (_, hex?: string, character = '') =>
    hex === undefined ? character : String.fromCharCode(Number.parseInt(hex, 16)),
  );
}
