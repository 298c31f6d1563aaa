/** The files that ucspi-tlsd reads, the environment of its program, and the privileges that it drops. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type CertificateMaker, makeCertificates, type Pair } from '../support/certificate.ts';
import { runTlsd } from '../support/controlled-program.ts';
import { statusOf } from '../support/processes.ts';
import { collect, startTls } from '../support/tls-client.ts';

let certificates: CertificateMaker;
let pair: Pair;
let environment: NodeJS.ProcessEnv;
before(() => {
  certificates = makeCertificates();
  pair = certificates.selfSigned('mail.example.org');
  environment = { CERTFILE: pair.certFile, KEYFILE: pair.keyFile };
});
after(() => certificates.remove());

/** Makes a file of certificates and keys. */
function file(name: string, content: string | Uint8Array): string {
  const path = join(certificates.folder, name);
  writeFileSync(path, content);
  return path;
}

function openssl(...args: string[]): Buffer {
  return execFileSync('openssl', args, { stdio: 'pipe' });
}

describe('ucspi-tlsd accepts', { concurrency: 4, timeout: 60_000 }, () => {
  const der = (command: string, ...args: string[]): Buffer => openssl(command, ...args, '-outform', 'DER');
  for (const [what, variables] of [
    ['a certificate in DER', () => ({ CERTFILE: file('c.der', der('x509', '-in', pair.certFile)) })],
    [
      'a key in DER, PKCS #8',
      () => ({ KEYFILE: file('8.der', der('pkcs8', '-topk8', '-nocrypt', '-in', pair.keyFile)) }),
    ],
    ['a key in DER, SEC 1', () => ({ KEYFILE: file('1.der', der('ec', '-in', pair.keyFile)) })],
    ['a key in PEM, SEC 1', () => ({ KEYFILE: file('1.pem', openssl('ec', '-in', pair.keyFile)) })],
    [
      'an RSA key in DER, PKCS #1',
      () => {
        const { certFile, keyFile } = certificates.selfSigned('mail.example.org', ['rsa:2048']);
        return { CERTFILE: certFile, KEYFILE: file('rsa.der', der('rsa', '-traditional', '-in', keyFile)) };
      },
    ],
    [
      'an Ed25519 key',
      () => {
        const { certFile, keyFile } = certificates.selfSigned('mail.example.org', ['ed25519']);
        return { CERTFILE: certFile, KEYFILE: keyFile };
      },
    ],
    [
      'key and certificate in one file',
      () => {
        const both = file('both', Buffer.concat([readFileSync(pair.keyFile), readFileSync(pair.certFile)]));
        return { CERTFILE: both, KEYFILE: both };
      },
    ],
  ] as const) {
    it(what, async (t) => {
      const { client, program } = await runTlsd(t, { environment: { ...environment, ...variables() } });
      await program.write('control', 'y');
      const tls = await startTls(client);
      assert.equal(tls.getPeerCertificate().subject.CN, 'mail.example.org');
    });
  }

  it('the chain after the certificate, and sends it', async (t) => {
    const authority = certificates.selfSigned('authority');
    const leaf = certificates.signedBy(authority, 'leaf.example.org');
    const chain = [leaf, authority].map(({ certFile }) => readFileSync(certFile));
    const variables = { CERTFILE: file('chain', Buffer.concat(chain)), KEYFILE: leaf.keyFile };
    const { client, program } = await runTlsd(t, { environment: variables });
    await program.write('control', 'y');
    const tls = await startTls(client);
    const shown = tls.getPeerCertificate(true);
    assert.equal(shown.subject.CN, 'leaf.example.org');
    assert.equal(shown.issuerCertificate.subject.CN, 'authority');
  });
});

describe('the environment of the program under ucspi-tlsd', { concurrency: 4, timeout: 60_000 }, () => {
  const NAMES = /^(?:(?:KEY|CERT)FILE|CA(?:FILE|DIR)|TLS_[UG]ID)/;
  const more = (): NodeJS.ProcessEnv => ({
    ...environment,
    'KEYFILE:a.example': pair.keyFile,
    'CERTFILE:a.example': pair.certFile,
    CAFILE: pair.certFile,
    CADIR: '/etc/ssl/certs',
    KEYFILES: 'not ours',
  });

  for (const options of [[], ['-z']]) {
    it(`lacks the variables for TLS servers, with ${options[0] ?? 'no option'}`, async (t) => {
      const { program } = await runTlsd(t, { options, environment: more() });
      const left = Object.keys(program.environment).filter((name) => NAMES.test(name));
      assert.deepEqual(left, ['KEYFILES']);
      assert.equal(program.environment.TCPREMOTEIP, '127.0.0.1');
      assert.equal(program.environment.PATH, process.env.PATH);
    });
  }

  it('has them with -Z', async (t) => {
    const { program } = await runTlsd(t, { options: ['-Z'], environment: more() });
    for (const [name, value] of Object.entries(more())) assert.equal(program.environment[name], value);
  });

  it('names only the descriptors of ucspi-tlsd when there is another UCSPI-TLS server above', async (t) => {
    const above = { SSLCTLFD: '77', SSLREADFD: '78', SSLWRITEFD: '79' };
    const { client, program } = await runTlsd(t, { environment: { ...environment, ...above } });
    await program.write('control', 'y');
    const tls = await startTls(client);
    await program.write('write', 'hello');
    assert.equal(await collect(tls).octets(5), 'hello');
  });
});

describe('TLS_UID and TLS_GID', { skip: process.getuid?.() === 0 ? false : 'not root' }, () => {
  it('set the user of ucspi-tlsd after it has read a key of root, not that of the program', async (t) => {
    chmodSync(pair.keyFile, 0o600);
    const variables = { ...environment, TLS_UID: '54321', TLS_GID: '54322' };
    const { client, program } = await runTlsd(t, { environment: variables });
    assert.equal(statusOf(program.parent, 'Uid'), '54321 54321 54321 54321');
    assert.equal(statusOf(program.parent, 'Gid'), '54322 54322 54322 54322');
    assert.equal(statusOf(program.parent, 'Groups'), '54322');
    assert.equal(statusOf(program.parent, 'CapEff'), '0000000000000000');
    for (const name of ['Uid', 'Gid', 'Groups']) {
      assert.equal(statusOf(program.pid, name), statusOf(process.pid, name));
    }
    await program.write('control', 'y');
    const tls = await startTls(client);
    await program.write('write', 'hello');
    assert.equal(await collect(tls).octets(5), 'hello');
  });
});
