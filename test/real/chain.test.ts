/** The shim in chains made with the tools of s6 and execline. */

import assert from 'node:assert/strict';
import { copyFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describe, it } from 'node:test';
import { missing, ours, ROOT } from '../support/programs.ts';
import {
  assertDelivered,
  assertTls,
  type MailServer,
  queueOf,
  startMailServer,
} from '../support/real-chain.ts';
import { CLIENTS } from '../support/real-clients.ts';

const [client] = CLIENTS.filter(({ name }) => name === 'curl');
const NOBODY_UID = 65534;

describe('a chain', { concurrency: 2, timeout: 60_000 }, () => {
  const isRoot = process.getuid?.() === 0;

  it('may be an execline script', {
    skip: missing('tcpserver', 'mailfront', 'curl', 'execlineb'),
  }, async (t) => {
    await assertDelivers(t, (folder) => {
      const script = join(folder, 'run');
      const lines = ['importas -i queue QUEUEDIR', 'export QUEUEDIR $queue', `${ours('ucspi-tlsd')} -v2`];
      lines.push(ours('smtpd-starttls-proxy-io'), 'mailfront smtp queuedir accept');
      writeFileSync(script, lines.join('\n'));
      return ['execlineb', '-P', script];
    });
  });

  it('may change the user below ucspi-tlsd, so that only ucspi-tlsd can read the key', {
    skip: isRoot ? missing('tcpserver', 'mailfront', 'curl', 's6-applyuidgid') : 'not root',
  }, async (t) => {
    const server = await assertDelivers(t, (folder) => {
      // The checkout may be accessible only to its owner.
      for (const name of ['package.json', 'bin/smtpd-starttls-proxy-io']) {
        copyFileSync(join(ROOT, 'dist', name), join(folder, basename(name)));
      }
      const shim = [join(folder, 'smtpd-starttls-proxy-io'), 'mailfront', 'smtp', 'queuedir', 'accept'];
      const user = ['s6-applyuidgid', '-u', String(NOBODY_UID), '-g', String(NOBODY_UID), '-G', ''];
      return [ours('ucspi-tlsd'), '-v2', ...user, ...shim];
    });
    assert.equal(statSync(server.pair.keyFile).mode & 0o77, 0);
    const [file = ''] = readdirSync(queueOf(server));
    assert.equal(statSync(join(queueOf(server), file)).uid, NOBODY_UID);
  });

  it('may have ucspi-tlsd itself change the user', {
    skip: isRoot ? missing('tcpserver', 'mailfront', 'curl') : 'not root',
  }, async (t) => {
    const server = await assertDelivers(t, () => {
      const shim = [ours('smtpd-starttls-proxy-io'), 'mailfront', 'smtp', 'queuedir', 'accept'];
      const user = ['env', `TLS_UID=${NOBODY_UID}`, `TLS_GID=${NOBODY_UID}`];
      return [...user, ours('ucspi-tlsd'), '-v2', ...shim];
    });
    const [file = ''] = readdirSync(queueOf(server));
    assert.equal(statSync(join(queueOf(server), file)).uid, 0);
  });
});

async function assertDelivers(
  t: Parameters<typeof startMailServer>[0],
  chain: (folder: string) => readonly string[],
): Promise<MailServer> {
  const server = await startMailServer(t, chain);
  const outcome = await client?.secure(server);
  assert.equal(outcome?.status, 0, `${outcome?.stderr}${server.stderr()}`);
  assertDelivered(server);
  assertTls(server, 1);
  return server;
}
