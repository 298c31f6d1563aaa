/** Limits on the computation that a client can cause: lib/tls/handshake.ts, lib/tls/context.ts. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { type KeyPair, keyExchangeGroups } from '../../../lib/tls/context.ts';
import { createTlsServer, type TlsServer } from '../../../lib/tls/handshake.ts';
import { type CertificateMaker, makeCertificates } from '../../support/certificate.ts';
import { until } from '../../support/processes.ts';
import { run } from '../../support/real.ts';
import { startTls } from '../../support/tls-client.ts';
import { listen, plainClient } from '../../support/tls-listener.ts';

let certificates: CertificateMaker;
let pair: KeyPair;
before(() => {
  certificates = makeCertificates();
  // RSA, because in TLS 1.2 the groups of a client also restrict the EC certificates that it accepts.
  const { certFile, keyFile } = certificates.selfSigned('mail.example.org', ['rsa:2048']);
  const [certificate, key] = [readFileSync(certFile, 'latin1'), readFileSync(keyFile, 'latin1')];
  pair = { certificate, key, path: certFile };
});
after(() => certificates.remove());

function makeServer(): TlsServer {
  const files = { standard: [pair], byName: {}, authorities: [] };
  return createTlsServer(files, { clientCertificate: 'none', timeout: 20_000, alpn: undefined });
}

describe('the key exchange', { concurrency: 4, timeout: 60_000 }, () => {
  for (const [version, groups] of [
    ['-tls1_3', ['ffdhe2048', 'ffdhe8192', 'P-521', 'X448']],
    ['-tls1_2', ['P-521', 'X448']],
  ] as const) {
    for (const group of groups) {
      it(`is refused for a client that offers only ${group}, ${version}`, async (t) => {
        const scene = await listen(t, makeServer());
        const connectTo = ['-connect', `127.0.0.1:${scene.port}`];
        const { stderr } = await run(['openssl', 's_client', ...connectTo, version, '-groups', group]);
        assert.match(stderr, /alert handshake failure/);
        const { failure } = await scene.next();
        assert.match(failure?.reason ?? '', /^ERR_SSL_NO_(?:SHARED_CIPHER|SUITABLE_KEY_SHARE)$/);
      });
    }
  }

  for (const version of ['-tls1_2', '-tls1_3']) {
    for (const [group, name] of [
      ['X25519', 'X25519'],
      ['P-256', 'ECDH, prime256v1|ECDH, P-256'],
      ['P-384', 'ECDH, secp384r1|ECDH, P-384'],
      // Other groups of the client do no harm; a key share for one of them costs a round trip.
      ['P-521:P-384', 'ECDH, secp384r1|ECDH, P-384'],
    ]) {
      it(`succeeds with a client that offers ${group}, ${version}`, async (t) => {
        const scene = await listen(t, makeServer());
        const connectTo = ['-connect', `127.0.0.1:${scene.port}`, '-groups', group ?? ''];
        const { stdout } = await run(['openssl', 's_client', ...connectTo, version]);
        assert.match(stdout, new RegExp(`^(?:Server|Peer) Temp Key: (?:${name}),`, 'm'));
        assert.ok((await scene.next()).socket !== undefined);
      });
    }
  }

  it('uses only groups that the version of OpenSSL supports', () => {
    const classic = 'X25519:P-256:P-384';
    for (const version of ['3.0.19', '3.4.9', '1.1.1']) assert.equal(keyExchangeGroups(version), classic);
    for (const version of ['3.5.0', '3.10.1', '4.0.0']) {
      assert.equal(keyExchangeGroups(version), `?X25519MLKEM768:${classic}`);
    }
  });

  const hybrid = keyExchangeGroups(process.versions.openssl).includes('MLKEM');
  it('is hybrid if Node supports it and the client requests it', { skip: !hybrid }, async (t) => {
    const scene = await listen(t, makeServer());
    const socket = await startTls(await plainClient(t, scene.port), { ecdhCurve: 'X25519MLKEM768' });
    assert.equal(socket.getProtocol(), 'TLSv1.3');
  });
});

it('a TLS 1.2 client cannot renegotiate', async (t) => {
  const scene = await listen(t, makeServer());
  const connectTo = ['-connect', `127.0.0.1:${scene.port}`];
  const client = spawn('openssl', ['s_client', ...connectTo, '-tls1_2'], { stdio: 'pipe' });
  t.after(() => client.kill('SIGKILL'));
  let output = '';
  client.stderr.on('data', (bytes: Buffer) => {
    output += bytes.toString('latin1');
  });
  const { socket } = await scene.next();
  socket?.resume();
  // The s_client command for renegotiation. When it succeeds, the certificate is verified again.
  client.stdin.write('R\n');
  await until('the answer has come', () =>
    /RENEGOTIATING\s.*(?:no renegotiation|verify error)/s.test(output),
  );
  assert.match(output, /no renegotiation/);
});
