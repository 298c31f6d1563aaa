import type { TLSSocket } from 'node:tls';
import type { TlsVariables } from '../ucspi/control.ts';

/**
 * Describes a TLS session by the names that s6-tlsd-io has for it. The certificate of a client is among
 * them only when it was verified.
 *
 * @param socket with the handshake done.
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

/** The server name that the client asked for. Node has `false` and null where there is none. */
function nameOf(socket: TLSSocket): string | undefined {
  const { servername } = socket as { servername?: unknown };
  return typeof servername === 'string' && servername !== '' ? servername : undefined;
}

/** Node gives a line an attribute, the least specific first; RFC 4514 has them the other way and commas. */
function distinguishedName(subject: string): string {
  return subject.split('\n').reverse().join(',');
}
