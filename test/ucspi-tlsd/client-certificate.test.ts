/** Client certificates: -Y requests one, -y requires one. */

import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { ConnectionOptions } from 'node:tls';
import { type CertificateMaker, makeCertificates, type Pair } from '../support/certificate.ts';
import { runTlsd } from '../support/controlled-program.ts';
import { collect, startTls } from '../support/tls-client.ts';

describe('client certificates under ucspi-tlsd', { concurrency: 4, timeout: 60_000 }, () => {
  let certificates: CertificateMaker;
  let server: Pair;
  let good: Pair;
  let bad: Pair;
  let authorities: Readonly<Record<string, NodeJS.ProcessEnv>>;
  before(() => {
    certificates = makeCertificates();
    server = certificates.selfSigned('mail.example.org');
    const authority = certificates.selfSigned('authority');
    const other = certificates.selfSigned('other authority');
    good = certificates.signedBy(authority, 'client.example.org');
    bad = certificates.signedBy(certificates.selfSigned('authority'), 'client.example.org');
    const [pem, otherPem] = [authority, other].map(({ certFile }) => readFileSync(certFile));
    const file = join(certificates.folder, 'authorities.pem');
    writeFileSync(file, Buffer.concat([otherPem ?? pem, Buffer.from('a comment\n'), pem] as Buffer[]));
    const folder = join(certificates.folder, 'authorities');
    mkdirSync(folder);
    writeFileSync(join(folder, 'a.pem'), otherPem ?? '');
    writeFileSync(join(folder, 'b.der'), new X509Certificate(pem ?? '').raw);
    authorities = { CAFILE: { CAFILE: file }, CADIR: { CADIR: folder } };
  });
  after(() => certificates.remove());

  function environment(from: string): NodeJS.ProcessEnv {
    return { CERTFILE: server.certFile, KEYFILE: server.keyFile, ...authorities[from] };
  }

  function shown({ certFile, keyFile }: Pair): ConnectionOptions {
    return { cert: readFileSync(certFile), key: readFileSync(keyFile) };
  }

  for (const from of ['CAFILE', 'CADIR']) {
    for (const option of ['-Y', '-y']) {
      for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
        it(`${option} accepts a valid one by ${from} in ${maxVersion}, and describes it to the program`, async (t) => {
          const run = { options: [option], environment: environment(from) };
          const { client, program } = await runTlsd(t, run);
          await program.write('control', 'Y');
          const tls = await startTls(client, { ...shown(good), maxVersion });
          const answer = (await program.readAll('control')).toString('latin1').split('\0');
          const hash = new X509Certificate(readFileSync(good.certFile)).fingerprint256;
          assert.deepEqual(answer.slice(3), [
            `SSL_PEER_CERT_HASH=SHA256:${hash.replaceAll(':', '').toLowerCase()}`,
            'SSL_PEER_CERT_SUBJECT=CN=client.example.org',
            '',
            '',
          ]);
          await program.write('write', 'hello');
          assert.equal(await collect(tls).octets(5), 'hello');
        });
      }
    }
  }

  it('-Y accepts a client that sends none', async (t) => {
    const { client, program } = await runTlsd(t, { options: ['-Y'], environment: environment('CAFILE') });
    await program.write('control', 'Y');
    await startTls(client);
    const answer = (await program.readAll('control')).toString('latin1');
    assert.match(answer, /\0SSL_PEER_CERT_HASH\0SSL_PEER_CERT_SUBJECT\0\0$/);
  });

  it('-y refuses a client that sends none, with an alert', async (t) => {
    const run = { options: ['-y'], environment: environment('CAFILE') };
    const { client, tlsd, program } = await runTlsd(t, run);
    const refused = assert.rejects(startTls(client, { maxVersion: 'TLSv1.2' }), /alert handshake failure/);
    await program.write('control', 'Y');
    await refused;
    assert.equal((await program.readAll('control')).length, 0);
    await tlsd.logs(/unable to start TLS with 127\.0\.0\.1: ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE\n$/);
  });

  for (const option of ['-Y', '-y']) {
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      it(`${option} refuses an invalid one in ${maxVersion}, reports why, and the handshake fails`, async (t) => {
        const run = { options: [option], environment: environment('CAFILE') };
        const { client, tlsd, program } = await runTlsd(t, run);
        // In TLS 1.3 the client completes the handshake before the server sees its certificate.
        const shaken = startTls(client, { ...shown(bad), maxVersion }).catch(() => {});
        await program.write('control', 'Y');
        assert.equal((await program.readAll('control')).length, 0);
        assert.equal((await program.readAll('read')).length, 0);
        await tlsd.logs(
          /unable to start TLS with 127\.0\.0\.1: invalid client certificate: UNABLE_TO_VERIFY_LEAF_SIGNATURE\n$/,
        );
        program.exit(0);
        await shaken;
      });
    }
  }

  it('are not requested without an option, and CAFILE is not read', async (t) => {
    const run = { environment: { ...environment('CAFILE'), CAFILE: '/nonexistent' } };
    const { client, program } = await runTlsd(t, run);
    await program.write('control', 'Y');
    await startTls(client, shown(bad));
    const answer = (await program.readAll('control')).toString('latin1');
    assert.match(answer, /\0SSL_PEER_CERT_HASH\0SSL_PEER_CERT_SUBJECT\0\0$/);
  });

  it('are requested and verified with a certificate by name too', async (t) => {
    const { certFile, keyFile } = certificates.selfSigned('named');
    const names = { 'CERTFILE:a.example': certFile, 'KEYFILE:a.example': keyFile };
    const run = { options: ['-y', '-k2'], environment: { ...environment('CAFILE'), ...names } };
    const { client, program } = await runTlsd(t, run);
    await program.write('control', 'Y');
    const tls = await startTls(client, { ...shown(good), servername: 'a.example' });
    assert.equal(tls.getPeerCertificate().subject.CN, 'named');
    const answer = (await program.readAll('control')).toString('latin1');
    assert.match(answer, /\0SSL_PEER_CERT_SUBJECT=CN=client\.example\.org\0\0$/);
  });

  it('are refused with a certificate by name too', async (t) => {
    const { certFile, keyFile } = certificates.selfSigned('named');
    const names = { 'CERTFILE:a.example': certFile, 'KEYFILE:a.example': keyFile };
    const run = { options: ['-y', '-k1'], environment: { ...environment('CAFILE'), ...names } };
    const { client, tlsd, program } = await runTlsd(t, run);
    const shaken = startTls(client, { ...shown(bad), servername: 'a.example' }).catch(() => {});
    await program.write('control', 'Y');
    assert.equal((await program.readAll('control')).length, 0);
    await tlsd.logs(/unable to start TLS/);
    program.exit(0);
    await shaken;
  });
});
