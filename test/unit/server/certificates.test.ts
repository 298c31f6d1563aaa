/** Which certificates are watched, and for which names: lib/server/certificates.ts. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { type CertificateWatch, watchCertificates } from '../../../lib/server/certificates.ts';
import { createLog, type Log } from '../../../lib/server/log.ts';
import type { SecretsSnapshot } from '../../../lib/server/secrets.ts';
import type { KeyPair } from '../../../lib/tls/context.ts';
import { type CertificateMaker, makeCertificates, type Pair } from '../../support/certificate.ts';
import { until } from '../../support/processes.ts';

let certificates: CertificateMaker;
let mail: Pair;
let other: Pair;
before(() => {
  certificates = makeCertificates();
  mail = certificates.selfSigned('mail.example.org');
  other = certificates.selfSigned('other.example.org');
});
after(() => certificates.remove());

/** A log that keeps its lines, without the part that all share. */
function keptLog(): { readonly log: Log; readonly lines: string[] } {
  const lines: string[] = [];
  const write = (line: string): boolean => lines.push(line.replace('s: warning: event=certificate ', '')) > 0;
  return { log: createLog('s', 1, write), lines };
}

function pairOf({ certFile, keyFile }: Pair, path = certFile): KeyPair {
  return { certificate: readFileSync(certFile, 'latin1'), key: readFileSync(keyFile, 'latin1'), path };
}

/** Secrets with these pairs: for clients without a server name, by server name, and for servers by URL. */
function secretsOf(
  standard: readonly KeyPair[],
  byName: Readonly<Record<string, readonly KeyPair[]>> = {},
  forRelay: readonly KeyPair[] = [],
): SecretsSnapshot {
  return {
    files: { standard, byName, authorities: [] },
    relay: { credentials: [], tls: { pairs: forRelay, authorities: undefined } },
    ticketKey: '',
  };
}

/** What is logged about secrets. */
function linesOf(secrets: SecretsSnapshot, localHost?: string): readonly string[] {
  const { log, lines } = keptLog();
  watchCertificates({ localHost, log }).loaded(secrets);
  return lines;
}

/** The labels of the certificates in the metrics: server name and file. */
function labelsOf(watch: CertificateWatch): (readonly string[])[] {
  return (watch.metrics().certificate_not_after_timestamp_seconds ?? []).map(({ labels }) => labels);
}

describe('the name of this host', () => {
  it('is compared with the certificates for clients that send no server name', () => {
    const secrets = secretsOf([pairOf(mail, 'a'), pairOf(other, 'b')]);
    assert.deepEqual(linesOf(secrets, 'mail.example.org'), [
      'file=b text="the certificate does not have the name mail.example.org"',
    ]);
  });

  for (const localHost of [
    undefined,
    '',
    '0',
    'localhost',
    'mail',
    '192.0.2.1',
    '2001:db8::1',
    '::ffff:192.0.2.1',
  ]) {
    it(`is not compared if it is ${localHost ?? 'not given'}`, () => {
      assert.deepEqual(linesOf(secretsOf([pairOf(mail)]), localHost), []);
    });
  }

  it('is not compared with the certificates of server names, which must have these names', () => {
    const byName = {
      'other.example.org': [pairOf(other, 'a')],
      'third.example.org': [pairOf(other, 'b')],
      '*.example.org': [pairOf(other, 'c')],
    };
    assert.deepEqual(linesOf(secretsOf([pairOf(mail)], byName), 'mail.example.org'), [
      'file=b name=third.example.org text="the certificate does not have the name third.example.org"',
    ]);
  });
});

describe('the metrics of certificates', () => {
  it('have each server name and file once', () => {
    const { log } = keptLog();
    const watch = watchCertificates({ localHost: undefined, log });
    assert.deepEqual(labelsOf(watch), []);
    const [a, b] = [pairOf(mail, '/a'), pairOf(other, '/b')];
    watch.loaded(secretsOf([a, b], { 'a.example': [a], '*.a.example': [a] }, [a, pairOf(other, '/c')]));
    assert.deepEqual(labelsOf(watch), [
      ['', '/a'],
      ['', '/b'],
      ['a.example', '/a'],
      ['*.a.example', '/a'],
      ['', '/c'],
    ]);
    watch.loaded({ ticketKey: '' });
    assert.deepEqual(labelsOf(watch), []);
  });

  it('have paths of any length', () => {
    const path = `/${'x'.repeat(4000)}`;
    const watch = watchCertificates({ localHost: undefined, log: keptLog().log });
    watch.loaded(secretsOf([pairOf(mail, `${path}1`), pairOf(mail, `${path}2`)]));
    assert.deepEqual(labelsOf(watch), [
      ['', `${path}1`],
      ['', `${path}2`],
    ]);
  });
});

describe('the faults of certificates', () => {
  it('are those of the certificates for servers by URL, too, but for the name', () => {
    const bad = certificates.signedBy(other, 'client');
    const text =
      'the certificate of its issuer, CN=other.example.org, is not in the file: clients that lack it cannot verify the chain';
    assert.deepEqual(linesOf(secretsOf([], {}, [pairOf(bad, '/relay')]), 'mail.example.org'), [
      `file=/relay text="${text}"`,
    ]);
  });

  it('are logged again at each interval, and those of new certificates in place of the old', async () => {
    const { log, lines } = keptLog();
    const watch = watchCertificates({ localHost: 'mail.example.org', log, interval: 10 });
    watch.loaded(secretsOf([pairOf(other, 'old')]));
    await until('they are logged three times', () => lines.length >= 3);
    watch.loaded(secretsOf([pairOf(other, 'new')]));
    const before = lines.length;
    await until('they are logged again', () => lines.length >= before + 2);
    assert.ok(lines.slice(0, before - 1).every((line) => line.startsWith('file=old ')));
    assert.ok(lines.slice(before - 1).every((line) => line.startsWith('file=new ')));
  });

  it('are logged once a day unless there is an interval', (t) => {
    const { log, lines } = keptLog();
    t.mock.timers.enable({ apis: ['setInterval'] });
    watchCertificates({ localHost: 'mail.example.org', log }).loaded(secretsOf([pairOf(other)]));
    assert.equal(lines.length, 1);
    t.mock.timers.tick(24 * 3_600_000 - 1);
    assert.equal(lines.length, 1);
    t.mock.timers.tick(1);
    assert.equal(lines.length, 2);
    t.mock.timers.tick(24 * 3_600_000);
    assert.equal(lines.length, 3);
  });

  it('do not keep a process alive', async () => {
    const module = JSON.stringify(new URL('../../../lib/server/certificates.ts', import.meta.url).href);
    const program = `
      import { watchCertificates } from ${module};
      watchCertificates({ localHost: undefined, log: { warning() {} } });
    `;
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', program], {
      stdio: 'ignore',
      timeout: 10_000,
    });
    assert.deepEqual(await once(child, 'exit'), [0, null]);
  });
});
