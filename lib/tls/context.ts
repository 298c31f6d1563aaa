import type { SecureContextOptions } from 'node:tls';

/**
 * The cipher suites. For TLS 1.2, only those with forward secrecy and authenticated encryption; every current
 * implementation of TLS 1.2 in mail servers has one of them. All suites of TLS 1.3 are acceptable.
 */
const CIPHERS = [
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'TLS_AES_128_GCM_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
].join(':');

/** The groups of the key exchange, the cheapest first. Every mail client in use supports one of them. */
const GROUPS = 'X25519:P-256:P-384';

/**
 * The groups of the key exchange to offer (RFC 8446 section 4.2.7), as OpenSSL takes them.
 *
 * A client can choose any of them without computing anything itself, so the server must be able to afford each:
 * OpenSSL's default list has P-521 and ffdhe8192, which costs a hundred times as much as X25519 (CVE-2002-20001).
 * X25519MLKEM768, which also resists quantum computers, costs as much as X25519.
 *
 * @param openssl the version of OpenSSL. X25519MLKEM768 exists since 3.5. The question mark allows for a build
 * without it; versions before 3.3 do not support the question mark and reject the whole list.
 */
export function keyExchangeGroups(openssl: string): string {
  const [major = 0, minor = 0] = openssl.split('.').map(Number);
  return major > 3 || (major === 3 && minor >= 5) ? `?X25519MLKEM768:${GROUPS}` : GROUPS;
}

/** A certificate and its key, both in PEM. The certificate may be followed by its chain. */
export interface KeyPair {
  readonly certificate: string;
  readonly key: string;
  /** The file of the certificate, for messages. */
  readonly path: string;
}

/**
 * The options of node:tls for certificates.
 *
 * @param pairs are offered together; empty for a server that has to refuse its clients.
 * @param authorities the CA certificates that client certificates are verified against, in PEM.
 */
export function contextOptions(
  pairs: readonly KeyPair[],
  authorities: readonly string[],
): SecureContextOptions {
  return {
    minVersion: 'TLSv1.2',
    ciphers: CIPHERS,
    ecdhCurve: keyExchangeGroups(process.versions.openssl),
    honorCipherOrder: true,
    cert: pairs.map(({ certificate }) => certificate),
    key: pairs.map(({ key }) => key),
    // Set even when empty: without a list Node loads the web's CA certificates, which must not be trusted for
    // mail clients, and that takes 15 ms, as long as all the rest of the start.
    ca: [...authorities],
  };
}
