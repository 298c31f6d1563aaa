/** The shim under tcpserver and ucspi-tlsd in front of mailfront, with third-party mail clients. */

import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { describe, it } from 'node:test';
import { missing, ours } from '../support/programs.ts';
import { run } from '../support/real.ts';
import { assertDelivered, assertTls, queueOf, startMailServer } from '../support/real-chain.ts';
import { CLIENTS } from '../support/real-clients.ts';

/** The chain below tcpserver. */
function chain(...options: string[]): readonly string[] {
  const shim = [ours('smtpd-starttls-proxy-io'), ...options];
  return [ours('ucspi-tlsd'), '-v2', ...shim, 'mailfront', 'smtp', 'queuedir', 'accept'];
}

describe('a message arrives', { concurrency: 2, timeout: 120_000 }, () => {
  for (const { name, programs, secure, plain } of CLIENTS) {
    const skip = missing('tcpserver', 'mailfront', ...programs);
    for (const options of [[], ['--require-tls'], ['--fresh']]) {
      const with_ = options[0] ?? 'no option';
      it(`from ${name} over TLS, with ${with_}`, { skip }, async (t) => {
        const server = await startMailServer(t, () => chain(...options));
        const { status, stderr } = await secure(server);
        assert.equal(status, 0, `${stderr}${server.stderr()}`);
        assertDelivered(server);
        assertTls(server, 1);
      });
    }

    if (plain === undefined) continue;
    it(`from ${name} in cleartext`, { skip }, async (t) => {
      const server = await startMailServer(t, () => chain());
      const { status, stderr } = await plain(server);
      assert.equal(status, 0, `${stderr}${server.stderr()}`);
      assertDelivered(server);
      assertTls(server, 0);
    });

    it(`not from ${name} in cleartext, with --require-tls`, { skip }, async (t) => {
      const server = await startMailServer(t, () => chain('--require-tls'));
      const { status, stdout, stderr } = await plain(server);
      assert.notEqual(status, 0);
      assert.match(`${stdout}${stderr}`, /530|MAIL failed/);
      assert.deepEqual(readdirSync(queueOf(server)), []);
    });
  }
});

it('curl refuses a certificate that is not the one it trusts, and no message arrives', {
  skip: missing('tcpserver', 'mailfront', 'curl'),
}, async (t) => {
  const server = await startMailServer(t, () => chain());
  const url = `smtp://127.0.0.1:${server.port}`;
  const options = [
    '-sS',
    '--ssl-reqd',
    '--mail-from',
    'a@example.org',
    '--mail-rcpt',
    'b@example.org',
    '-T',
    '-',
  ];
  const { status } = await run(['curl', url, ...options], { input: 'Subject: x\r\n\r\nx\r\n' });
  assert.equal(status, 60);
  assert.deepEqual(readdirSync(queueOf(server)), []);
});
