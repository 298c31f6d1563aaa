/** A scanner for weak TLS. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { missing, ours } from '../support/programs.ts';
import { run } from '../support/real.ts';
import { startMailServer } from '../support/real-chain.ts';

const skip = missing('tcpserver', 'mailfront', 'sslscan');

describe('sslscan', { timeout: 120_000 }, () => {
  for (const [where, starttls, program] of [
    ['ucspi-tlsd', [], () => ['sh', '-c', 'printf y >&3; cat <&4 >&5']],
    [
      'the shim under ucspi-tlsd',
      ['--starttls-smtp'],
      () => [ours('smtpd-starttls-proxy-io'), 'mailfront', 'smtp', 'echo', 'accept'],
    ],
  ] as const) {
    it(`finds TLS 1.2 and 1.3 in ${where}, nothing older, and no weak cipher`, { skip }, async (t) => {
      const server = await startMailServer(t, () => [ours('ucspi-tlsd'), ...program()]);
      const address = `127.0.0.1:${server.port}`;
      const { stdout } = await run([
        'sslscan',
        ...starttls,
        '--no-colour',
        '--no-groups',
        // By default it gives a connection 3 seconds, in which a busy machine may not start the chain.
        '--timeout=30',
        '--xml=-',
        address,
      ]);
      assert.deepEqual(
        [...stdout.matchAll(/<protocol type="(\w+)" version="([\d.]+)" enabled="1"/g)].map(
          ([, type, version]) => `${type} ${version}`,
        ),
        ['tls 1.2', 'tls 1.3'],
        stdout,
      );
      const ciphers = [...stdout.matchAll(/<cipher .*? sslversion="(.*?)" .*? cipher="(.*?)"/g)];
      assert.deepEqual(ciphers.map(([, version, cipher]) => `${version} ${cipher}`).sort(), [
        'TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256',
        'TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384',
        'TLSv1.2 ECDHE-ECDSA-CHACHA20-POLY1305',
        'TLSv1.3 TLS_AES_128_GCM_SHA256',
        'TLSv1.3 TLS_AES_256_GCM_SHA384',
        'TLSv1.3 TLS_CHACHA20_POLY1305_SHA256',
      ]);
      assert.ok(!stdout.includes('vulnerable="1"'));
      assert.ok(!/<renegotiation supported="1" secure="0"/.test(stdout));
    });
  }
});
