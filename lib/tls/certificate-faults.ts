/** Faults of certificates that TLS uses all the same, although clients may refuse them. */

import { type KeyObject, X509Certificate } from 'node:crypto';

/** How long before it expires a certificate is reported, in milliseconds: 14 days. */
const NOTICE = 14 * 86_400_000;

/** The minimum length of an RSA key, in bits (RFC 9325, section 4.5). */
const MIN_RSA_BITS = 2048;

/** What a certificate is compared with. */
export interface CertificateCheck {
  /** The time, in milliseconds since the Unix epoch. */
  readonly now: number;
  /** The host name that clients expect in it; undefined for any. */
  readonly name: string | undefined;
}

/**
 * Parses the certificates of a PEM file, in their order. Other parts, such as a key, are skipped.
 *
 * @returns empty when there are none.
 */
export function parseChain(pem: string): X509Certificate[] {
  return pem.split(/^(?=-----BEGIN )/m).flatMap((part) => {
    try {
      return [new X509Certificate(part)];
    } catch {
      return [];
    }
  });
}

/**
 * When the first of these certificates expires, in milliseconds since the Unix epoch; NaN if one has a date that cannot be
 * read.
 *
 * @param chain at least one.
 */
export function earliestExpiry(chain: readonly X509Certificate[]): number {
  return Math.min(...chain.map(({ validTo }) => Date.parse(validTo)));
}

/**
 * Finds the faults of a certificate and of those that are sent with it.
 *
 * The issuer of the last certificate need not be there: usually it is a root, which clients have. So only the
 * certificate itself is reported when its issuer is missing. That is right for all public authorities, none of which
 * issues certificates with its root. A private one may: its root must be in the file, or is reported as missing.
 *
 * @param chain the certificate, and then the others, in any order.
 * @returns one text each, such as "the certificate expired at 2026-11-20T01:10:06Z".
 */
export function certificateFaults(
  chain: readonly X509Certificate[],
  { now, name }: CertificateCheck,
): string[] {
  const [own] = chain;
  if (own === undefined) return [];
  return [
    ...chain.flatMap((one) => validityFaults(one, now).map((fault) => `${labelOf(one, own)} ${fault}`)),
    ...weakKeys(chain),
    ...issuerFaults(own, chain),
    ...nameFaults(own, name),
  ];
}

/**
 * Finds RSA keys below 2048 bits. From Node 24 on, OpenSSL refuses them.
 *
 * @param chain as for `certificateFaults`.
 * @returns one text each, as `certificateFaults`.
 */
export function weakKeys(chain: readonly X509Certificate[]): string[] {
  return chain.flatMap((one) => {
    const bits = publicKeyOf(one)?.asymmetricKeyDetails?.modulusLength;
    if (bits === undefined || bits >= MIN_RSA_BITS) return [];
    return [`${labelOf(one, chain[0])} has an RSA key of ${bits} bits, fewer than ${MIN_RSA_BITS}`];
  });
}

function validityFaults({ validFrom, validTo }: X509Certificate, now: number): string[] {
  const [start, end] = [Date.parse(validFrom), Date.parse(validTo)];
  if (Number.isNaN(start + end)) return ['has a date that cannot be read'];
  if (now < start) return [`is not valid before ${formatTime(start)}`];
  if (now > end) return [`expired at ${formatTime(end)}`];
  return end - now < NOTICE ? [`expires within 14 days, at ${formatTime(end)}`] : [];
}

function issuerFaults(own: X509Certificate, chain: readonly X509Certificate[]): string[] {
  if (chain.some((one) => isIssuer(one, own))) return [];
  const issuer = oneLine(own.issuer);
  return [
    `the certificate of its issuer, ${issuer}, is not in the file: clients that lack it cannot verify the chain`,
  ];
}

function nameFaults(own: X509Certificate, name: string | undefined): string[] {
  if (name === undefined || own.checkHost(name) !== undefined) return [];
  return [`the certificate does not have the name ${name}`];
}

/** Compares the signature too, if possible: authorities replace their keys and keep the name. */
function isIssuer(one: X509Certificate, issued: X509Certificate): boolean {
  if (one.subject !== issued.issuer) return false;
  const key = publicKeyOf(one);
  return key === undefined || issued.verify(key);
}

/** Undefined for a kind of key that this version of OpenSSL does not support. */
function publicKeyOf(certificate: X509Certificate): KeyObject | undefined {
  try {
    return certificate.publicKey;
  } catch {
    return undefined;
  }
}

function labelOf(one: X509Certificate, own: X509Certificate | undefined): string {
  return one === own ? 'the certificate' : `${oneLine(one.subject)} in its chain`;
}

/** @param name as Node gives it: with one attribute a line, and undefined, whatever its type is, if it has none. */
function oneLine(name: string | undefined): string {
  return name === undefined || name === '' ? 'one without a name' : name.replaceAll('\n', ', ');
}

function formatTime(time: number): string {
  return new Date(time).toISOString().replace('.000', '');
}
