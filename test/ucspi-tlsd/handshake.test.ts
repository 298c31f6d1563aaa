/** Handshakes that ucspi-tlsd accepts and refuses. */

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { ConnectionOptions, TLSSocket } from 'node:tls';
import { type CertificateMaker, makeCertificates, type Pair } from '../support/certificate.ts';
import { runTlsd, type TlsdRun } from '../support/controlled-program.ts';
import { collect, startTls } from '../support/tls-client.ts';

let certificates: CertificateMaker;
let p256: Pair;
let rsa: Pair;
before(() => {
  certificates = makeCertificates();
  p256 = certificates.selfSigned('p256');
  rsa = certificates.selfSigned('rsa', ['rsa:2048']);
});
after(() => certificates.remove());

function variables({ certFile, keyFile }: Pair): NodeJS.ProcessEnv {
  return { CERTFILE: certFile, KEYFILE: keyFile };
}

/** Does a handshake between a client and ucspi-tlsd. */
async function shakeHands({ client, program }: TlsdRun, options: ConnectionOptions): Promise<TLSSocket> {
  const tls = startTls(client, options);
  // The program may have ended by now.
  tls.catch(() => {});
  await program.write('control', 'Y');
  return tls;
}

describe('the versions and ciphers of ucspi-tlsd', { concurrency: 4, timeout: 60_000 }, () => {
  // Node's client refuses these by default.
  const old = { minVersion: 'TLSv1', ciphers: 'ALL:@SECLEVEL=0' } as const;

  for (const [what, pair, options] of [
    ['TLS 1.0', () => p256, { ...old, maxVersion: 'TLSv1' }],
    ['TLS 1.1', () => p256, { ...old, maxVersion: 'TLSv1.1' }],
    ['a cipher in CBC mode', () => p256, { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES256-SHA384' }],
    ['a cipher without forward secrecy', () => rsa, { maxVersion: 'TLSv1.2', ciphers: 'AES256-GCM-SHA384' }],
    [
      'a cipher without authentication',
      () => rsa,
      { ...old, maxVersion: 'TLSv1.2', ciphers: 'aNULL:@SECLEVEL=0' },
    ],
    [
      'a cipher without encryption',
      () => rsa,
      { ...old, maxVersion: 'TLSv1.2', ciphers: 'eNULL:@SECLEVEL=0' },
    ],
  ] as const) {
    it(`exclude ${what}, with an alert to the client and a line on stderr`, async (t) => {
      const run = await runTlsd(t, { environment: variables(pair()) });
      await assert.rejects(shakeHands(run, options), /alert (?:protocol version|handshake failure)/);
      assert.equal((await run.program.readAll('control')).length, 0);
      await run.tlsd.logs(
        /^ucspi-tlsd: warning: unable to start TLS with 127\.0\.0\.1: ERR_SSL_(?:UNSUPPORTED_PROTOCOL|NO_SHARED_CIPHER)\n$/,
      );
    });
  }

  for (const [key, pair] of [
    ['ECDSA', () => p256],
    ['RSA', () => rsa],
  ] as const) {
    for (const suite of ['AES128-GCM-SHA256', 'AES256-GCM-SHA384', 'CHACHA20-POLY1305']) {
      const ciphers = `ECDHE-${key}-${suite}`;
      it(`include ${ciphers} in TLS 1.2`, async (t) => {
        const run = await runTlsd(t, { environment: variables(pair()) });
        const tls = await shakeHands(run, { maxVersion: 'TLSv1.2', ciphers });
        assert.equal(tls.getCipher().name, ciphers);
      });
    }
  }

  it('follow the preference of the server, not of the client', async (t) => {
    const run = await runTlsd(t, { environment: variables(p256) });
    const ciphers =
      'ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256';
    const tls = await shakeHands(run, { maxVersion: 'TLSv1.2', ciphers });
    assert.equal(tls.getCipher().name, 'ECDHE-ECDSA-AES128-GCM-SHA256');
  });

  it('include TLS 1.3 even if the environment makes Node prefer older versions', async (t) => {
    const environment = { ...variables(p256), NODE_OPTIONS: '--tls-min-v1.0 --tls-max-v1.3' };
    const run = await runTlsd(t, { environment });
    await assert.rejects(shakeHands(run, { ...old, maxVersion: 'TLSv1.1' }), /alert protocol version/);
  });
});

describe('the ALPN check of ucspi-tlsd', { concurrency: 4, timeout: 60_000 }, () => {
  for (const [what, option, offered, agreed] of [
    ['takes a client that offers smtp, and agrees to it', ['--alpn', 'smtp'], ['smtp'], 'smtp'],
    ['finds smtp among others', ['--alpn', 'smtp'], ['h2', 'smtp'], 'smtp'],
    ['takes a client that offers nothing', ['--alpn', 'smtp'], undefined, false],
    ['is not done unless asked for', [], ['h2', 'http/1.1'], false],
  ] as const) {
    it(what, async (t) => {
      const run = await runTlsd(t, { options: option, environment: variables(p256) });
      const tls = await shakeHands(run, offered === undefined ? {} : { ALPNProtocols: [...offered] });
      assert.equal(tls.alpnProtocol, agreed);
      await run.program.write('write', 'hello');
      assert.equal(await collect(tls).octets(5), 'hello');
    });
  }

  it('refuses a client that offers only other protocols, with no_application_protocol', async (t) => {
    const run = await runTlsd(t, { options: ['--alpn', 'smtp'], environment: variables(p256) });
    await assert.rejects(shakeHands(run, { ALPNProtocols: ['h2', 'http/1.1'] }), {
      code: 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL',
    });
    assert.equal((await run.program.readAll('control')).length, 0);
  });
});

describe('the handshake timeout of ucspi-tlsd', { concurrency: 4, timeout: 60_000 }, () => {
  it('ends a handshake in which the client sends nothing', async (t) => {
    const { tlsd, program } = await runTlsd(t, { options: ['-K', '100'], environment: variables(p256) });
    await program.write('control', 'Y');
    assert.equal((await program.readAll('control')).length, 0);
    assert.equal((await program.readAll('read')).length, 0);
    await tlsd.logs(/unable to start TLS with 127\.0\.0\.1: the handshake took too long\n$/);
    program.exit(4);
    assert.deepEqual(await tlsd.ended, { code: 4, signal: null });
  });

  it('ends a handshake that the client starts but does not continue', async (t) => {
    const { client, tlsd, program } = await runTlsd(t, { options: ['-K100'], environment: variables(p256) });
    await program.write('control', 'y');
    // The header of a record of 512 octets, and only one octet of it.
    client.write(Buffer.from([22, 3, 1, 2, 0, 1]));
    assert.equal((await program.readAll('control')).length, 0);
    await tlsd.logs(/the handshake took too long\n$/);
  });

  it('does not start before the program requests TLS, and does not end an established session', async (t) => {
    const setup = { options: ['-K', '3000'], environment: variables(p256) };
    /** Waits until the timeout of a handshake that starts now has passed, and with it any earlier one. */
    const timeoutPasses = async (): Promise<void> => {
      const { program } = await runTlsd(t, setup);
      await program.write('control', 'Y');
      assert.equal((await program.readAll('control')).length, 0);
    };
    const { client, tlsd, program } = await runTlsd(t, setup);
    await timeoutPasses();
    await program.write('control', 'y');
    const tls = await startTls(client);
    await timeoutPasses();
    await program.write('write', 'hello');
    assert.equal(await collect(tls).octets(5), 'hello');
    assert.equal(tlsd.stderr(), '');
  });
});
