/** Faults of certificates, with certificates of openssl: lib/tls/certificate-faults.ts. */

import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { certificateFaults, earliestExpiry, parseChain } from '../../../lib/tls/certificate-faults.ts';
import { type CertificateMaker, makeCertificates, type Pair } from '../../support/certificate.ts';

const DAY = 86_400_000;
const NAME = 'mail.example.org';

let certificates: CertificateMaker;
let root: Pair;
let intermediate: Pair;
let own: Pair;
before(() => {
  certificates = makeCertificates();
  root = certificates.selfSigned('root');
  intermediate = certificates.signedBy(root, 'intermediate');
  own = certificates.signedBy(intermediate, NAME);
});
after(() => certificates.remove());

/** The text of a file with the certificates of several pairs. */
function pem(...pairs: readonly Pair[]): string {
  return pairs.map(({ certFile }) => readFileSync(certFile, 'latin1')).join('');
}

function chainOf(...pairs: readonly Pair[]): X509Certificate[] {
  return parseChain(pem(...pairs));
}

/** The certificate of an Ed25519 key with an unknown object identifier in place of that of Ed25519. */
function unsupported(pair: Pair): X509Certificate {
  const der = chainOf(pair)[0]?.raw.toString('hex') ?? '';
  return new X509Certificate(Buffer.from(der.replaceAll('06032b6570', '06032b657f'), 'hex'));
}

/** The faults of a chain, today and without a name unless given. */
function faultsOf(
  pairs: readonly Pair[],
  { now = Date.now(), name }: { now?: number; name?: string } = {},
): string[] {
  return certificateFaults(chainOf(...pairs), { now, name });
}

/** Start and end of a certificate, in milliseconds, and both as in texts. */
function validityOf(pair: Pair): { start: number; end: number; startText: string; endText: string } {
  const [start = 0, end = 0] = chainOf(pair)
    .flatMap(({ validFrom, validTo }) => [validFrom, validTo])
    .map(Date.parse);
  const text = (time: number): string => new Date(time).toISOString().replace('.000Z', 'Z');
  return { start, end, startText: text(start), endText: text(end) };
}

describe('parseChain', () => {
  it('gives all certificates of a file in their order', () => {
    const subjects = chainOf(own, intermediate, root).map(({ subject }) => subject);
    assert.deepEqual(subjects, [`CN=${NAME}`, 'CN=intermediate', 'CN=root']);
  });

  it('skips keys and text', () => {
    const key = readFileSync(own.keyFile, 'latin1');
    const text = `Bag Attributes\n${key}${pem(own)}a remark\n${key}# and its issuer:\n${pem(intermediate)}`;
    assert.equal(parseChain(text).length, 2);
    assert.deepEqual(parseChain(key), []);
    assert.deepEqual(parseChain(''), []);
  });
});

describe('earliestExpiry', () => {
  it('is that of the certificate that expires first', () => {
    const late = chainOf(own);
    const early = chainOf(certificates.expired(root, NAME));
    assert.equal(earliestExpiry(late), validityOf(own).end);
    assert.equal(earliestExpiry([...late, ...early]), earliestExpiry(early));
    assert.ok(earliestExpiry(early) < Date.now());
  });
});

describe('certificateFaults', () => {
  it('finds none in a full chain, with and without its root', () => {
    assert.deepEqual(faultsOf([own, intermediate], { name: NAME }), []);
    assert.deepEqual(faultsOf([own, intermediate, root], { name: NAME }), []);
  });

  it('finds none in a self-signed certificate', () => {
    assert.deepEqual(faultsOf([certificates.selfSigned(NAME)], { name: NAME }), []);
  });

  it('finds none without a certificate', () => {
    assert.deepEqual(faultsOf([]), []);
  });

  it('finds one that expires in less than 14 days, or has expired', () => {
    const pair = certificates.selfSigned(NAME);
    const { end, endText } = validityOf(pair);
    assert.deepEqual(faultsOf([pair], { now: end - 14 * DAY }), []);
    const soon = [`the certificate expires within 14 days, at ${endText}`];
    assert.deepEqual(faultsOf([pair], { now: end - 14 * DAY + 1 }), soon);
    assert.deepEqual(faultsOf([pair], { now: end }), soon);
    assert.deepEqual(faultsOf([pair], { now: end + 1 }), [`the certificate expired at ${endText}`]);
  });

  it('finds one that is not valid yet', () => {
    const pair = certificates.selfSigned(NAME);
    const { start, startText } = validityOf(pair);
    assert.deepEqual(faultsOf([pair], { now: start }), []);
    const early = [`the certificate is not valid before ${startText}`];
    assert.deepEqual(faultsOf([pair], { now: start - 1 }), early);
  });

  it('finds one whose dates are not dates', () => {
    const der = chainOf(certificates.selfSigned(NAME))[0]?.raw ?? Buffer.alloc(0);
    // UTCTime (RFC 5280, section 4.1.2.5.1), which OpenSSL does not parse until it compares it.
    for (const start of [der.indexOf('170d', 'hex'), der.lastIndexOf('170d', 'hex')]) {
      const changed = Buffer.from(der);
      changed.write('991332', start + 2);
      const faults = certificateFaults([new X509Certificate(changed)], { now: Date.now(), name: undefined });
      assert.deepEqual(faults.slice(0, 1), ['the certificate has a date that cannot be read']);
    }
  });

  it('finds one in the chain that has expired, and names it', () => {
    const old = certificates.expired(root, 'intermediate');
    const { endText } = validityOf(old);
    assert.deepEqual(faultsOf([certificates.signedBy(old, NAME), old]), [
      `CN=intermediate in its chain expired at ${endText}`,
    ]);
  });

  it('finds RSA keys below 2048 bits, of the certificate and in its chain', () => {
    const [large, small] = [['rsa:2048'], ['rsa:1024']];
    assert.deepEqual(faultsOf([certificates.selfSigned(NAME, large)]), []);
    const weak = certificates.selfSigned('weak root', small);
    assert.deepEqual(faultsOf([weak]), ['the certificate has an RSA key of 1024 bits, fewer than 2048']);
    assert.deepEqual(faultsOf([certificates.signedBy(weak, NAME), weak]), [
      'CN=weak root in its chain has an RSA key of 1024 bits, fewer than 2048',
    ]);
  });

  const missing = (issuer: string): string =>
    `the certificate of its issuer, CN=${issuer}, is not in the file: clients that lack it cannot verify the chain`;

  it('finds that the issuer is missing', () => {
    assert.deepEqual(faultsOf([own]), [missing('intermediate')]);
    assert.deepEqual(faultsOf([own, root]), [missing('intermediate')]);
  });

  it('describes certificates that have no subject', () => {
    const authority = certificates.selfSigned('');
    const issued = certificates.signedBy(authority, NAME);
    assert.deepEqual(faultsOf([issued, authority]), []);
    assert.deepEqual(faultsOf([issued]), [missing('').replace('CN=', 'one without a name')]);
    const unnamed = certificates.signedBy(root, '', ['rsa:1024']);
    assert.deepEqual(faultsOf([own, intermediate, unnamed]), [
      'one without a name in its chain has an RSA key of 1024 bits, fewer than 2048',
    ]);
  });

  it('finds that the issuer in the file has another key', () => {
    const renewed = certificates.signedBy(root, 'intermediate');
    assert.deepEqual(faultsOf([own, renewed]), [missing('intermediate')]);
    const rsa = certificates.signedBy(root, 'intermediate', ['rsa:2048']);
    assert.deepEqual(faultsOf([own, rsa]), [missing('intermediate')]);
    assert.deepEqual(faultsOf([own, renewed, intermediate]), []);
  });

  it('reports a root that has issued the certificate itself, unless it is in the file', () => {
    const direct = certificates.signedBy(root, NAME);
    assert.deepEqual(faultsOf([direct]), [missing('root')]);
    assert.deepEqual(faultsOf([direct, root]), []);
  });

  it('skips the key of an issuer that OpenSSL does not support', () => {
    const odd = unsupported(certificates.selfSigned('odd', ['ed25519']));
    assert.throws(() => odd.publicKey);
    const today = { now: Date.now(), name: undefined };
    assert.deepEqual(certificateFaults([...chainOf(own, intermediate), odd], today), []);
    assert.deepEqual(certificateFaults([odd], today), []);
  });

  it('finds that a name is missing', () => {
    const wildcard = certificates.selfSigned('*.example.org');
    for (const [pair, name, isIn] of [
      [certificates.selfSigned(NAME), NAME, true],
      [certificates.selfSigned(NAME), NAME.toUpperCase(), true],
      [certificates.selfSigned(NAME), 'example.org', false],
      [certificates.selfSigned(NAME), 'other.example.org', false],
      [wildcard, NAME, true],
      [wildcard, 'a.mail.example.org', false],
    ] as const) {
      assert.deepEqual(
        faultsOf([pair], { name }),
        isIn ? [] : [`the certificate does not have the name ${name}`],
      );
    }
  });

  it('gives all faults of one certificate', () => {
    const bad = certificates.signedBy(root, NAME, ['rsa:1024']);
    const { end, endText } = validityOf(bad);
    assert.deepEqual(faultsOf([bad], { now: end + DAY, name: 'other.example' }), [
      `the certificate expired at ${endText}`,
      'the certificate has an RSA key of 1024 bits, fewer than 2048',
      missing('root'),
      'the certificate does not have the name other.example',
    ]);
  });
});
