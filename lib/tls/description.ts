import type { TLSSocket } from 'node:tls';
import type { TlsVariables } from '../ucspi/control.ts';

/**
 * Describes a TLS session with the variables of s6-tlsd-io. The client certificate is included only when it was
 * verified.
 *
 * @param socket has completed the handshake.
 */
export function describeSession(socket: TLSSocket): TlsVariables {
  const certificate = socket.authorized ? socket.getPeerX509Certificate() : undefined;
  return new Map([
    ['SSL_PROTOCOL', socket.getProtocol() ?? undefined],
    ['SSL_CIPHER', socket.getCipher().name],
    ['SSL_TLS_SNI_SERVERNAME', nameOf(socket)],
    [
      'SSL_PEER_CERT_HASH',
      certificate && `SHA256:${certificate.fingerprint256.replaceAll(':', '').toLowerCase()}`,
    ],
    ['SSL_PEER_CERT_SUBJECT', certificate && distinguishedName(certificate.subject)],
  ]);
}

/** The server name that the client requested. Node gives `false` or null when there is none. */
function nameOf(socket: TLSSocket): string | undefined {
  const { servername } = socket as { servername?: unknown };
  return typeof servername === 'string' && servername !== '' ? servername : undefined;
}

/**
 * Node gives one attribute per line, the least specific first; RFC 4514 reverses them and separates by commas. Whatever its
 * type is, an empty subject is undefined.
 */
function distinguishedName(subject: string | undefined = ''): string {
  return subject.split('\n').reverse().join(',');
}
