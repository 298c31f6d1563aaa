/** Third-party smtpds behind the shim, and a third-party UCSPI-TLS client under ucspi-tlsd. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { assertInMailbox, eximIn } from '../support/exim.ts';
import { missing, ours } from '../support/programs.ts';
import { assertDelivered, assertTls, startMailServer } from '../support/real-chain.ts';
import { CLIENTS } from '../support/real-clients.ts';

const isRoot = process.getuid?.() === 0;

describe("mailfront's own STARTTLS under ucspi-tlsd", { concurrency: 2, timeout: 60_000 }, () => {
  const mailfront = ['env', 'UCSPITLS=1', 'mailfront', 'smtp', 'queuedir', 'starttls-ucspi', 'accept'];
  for (const { name, programs, secure, plain } of CLIENTS) {
    const skip = missing('tcpserver', 'mailfront', ...programs);
    it(`accepts a message from ${name} over TLS`, { skip }, async (t) => {
      const server = await startMailServer(t, () => [ours('ucspi-tlsd'), '-v2', ...mailfront]);
      const { status, stderr } = await secure(server);
      assert.equal(status, 0, `${stderr}${server.stderr()}`);
      assertDelivered(server);
      assertTls(server, 1);
    });

    if (plain === undefined) continue;
    it(`accepts a message from ${name} in cleartext`, { skip }, async (t) => {
      const server = await startMailServer(t, () => [ours('ucspi-tlsd'), '-v2', ...mailfront]);
      const { status, stderr } = await plain(server);
      assert.equal(status, 0, `${stderr}${server.stderr()}`);
      assertDelivered(server);
      assertTls(server, 0);
    });
  }
});

describe('exim4 -bs behind the shim', {
  concurrency: 2,
  timeout: 60_000,
  skip: isRoot ? false : 'exim takes another configuration from root alone',
}, () => {
  for (const { name, programs, secure, plain } of CLIENTS) {
    const skip = missing('tcpserver', 'exim4', ...programs);
    it(`accepts a message from ${name} over TLS`, { skip }, async (t) => {
      const server = await startMailServer(t, exim);
      const { status, stderr } = await secure(server);
      assert.equal(status, 0, `${stderr}${server.stderr()}`);
      await assertInMailbox(server.folder);
      assertTls(server, 1);
    });

    if (plain === undefined) continue;
    it(`accepts a message from ${name} in cleartext`, { skip }, async (t) => {
      const server = await startMailServer(t, exim);
      const { status, stderr } = await plain(server);
      assert.equal(status, 0, `${stderr}${server.stderr()}`);
      await assertInMailbox(server.folder);
      assertTls(server, 0);
    });
  }

  function exim(folder: string): readonly string[] {
    return [ours('ucspi-tlsd'), '-v2', ours('smtpd-starttls-proxy-io'), ...eximIn(folder)];
  }
});
