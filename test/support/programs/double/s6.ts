import type { TLSSocket } from 'node:tls';
import type { Names } from './traits.ts';

/** Describes a session as s6-ucspitlsd does: what is not known is named without a value. */
export function describeAsS6(socket: TLSSocket): Names {
  const { servername } = socket as { servername?: unknown };
  const certificate = socket.getPeerX509Certificate();
  const subject = certificate?.subject.split('\n').reverse().join(',');
  return [
    ['SSL_PROTOCOL', socket.getProtocol() ?? undefined],
    ['SSL_CIPHER', socket.getCipher().name],
    ['SSL_TLS_SNI_SERVERNAME', typeof servername === 'string' && servername !== '' ? servername : undefined],
    ['SSL_PEER_CERT_HASH', certificate && `SHA256:${certificate.fingerprint256.replaceAll(':', '')}`],
    ['SSL_PEER_CERT_SUBJECT', subject],
  ];
}
