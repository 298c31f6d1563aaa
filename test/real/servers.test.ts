/** Smtpds of others behind the shim, and a UCSPI-TLS client of others under ucspi-tlsd. */

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { until } from '../support/processes.ts';
import { missing, ours } from '../support/programs.ts';
import { assertContent, assertDelivered, assertTls, startMailServer } from '../support/real-chain.ts';
import { CLIENTS } from '../support/real-clients.ts';

const isRoot = process.getuid?.() === 0;

describe("mailfront's own STARTTLS under ucspi-tlsd", { concurrency: 2, timeout: 60_000 }, () => {
  const mailfront = ['env', 'UCSPITLS=1', 'mailfront', 'smtp', 'queuedir', 'starttls-ucspi', 'accept'];
  for (const { name, programs, secure, plain } of CLIENTS) {
    const skip = missing('tcpserver', 'mailfront', ...programs);
    it(`takes a message from ${name} over TLS`, { skip }, async (t) => {
      const server = await startMailServer(t, () => [ours('ucspi-tlsd'), '-v2', ...mailfront]);
      const { status, stderr } = await secure(server);
      assert.equal(status, 0, `${stderr}${server.stderr()}`);
      assertDelivered(server);
      assertTls(server, 1);
    });

    if (plain === undefined) continue;
    it(`takes a message from ${name} in cleartext`, { skip }, async (t) => {
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
    it(`takes a message from ${name} over TLS`, { skip }, async (t) => {
      const server = await startMailServer(t, exim);
      const { status, stderr } = await secure(server);
      assert.equal(status, 0, `${stderr}${server.stderr()}`);
      await assertInMailbox(server.folder);
      assertTls(server, 1);
    });

    if (plain === undefined) continue;
    it(`takes a message from ${name} in cleartext`, { skip }, async (t) => {
      const server = await startMailServer(t, exim);
      const { status, stderr } = await plain(server);
      assert.equal(status, 0, `${stderr}${server.stderr()}`);
      await assertInMailbox(server.folder);
      assertTls(server, 0);
    });
  }

  function exim(folder: string): readonly string[] {
    const configuration = join(folder, 'exim.conf');
    writeFileSync(configuration, configurationFor(folder));
    const shim = [ours('smtpd-starttls-proxy-io'), 'exim4', '-C', configuration, '-odf', '-bs'];
    return [ours('ucspi-tlsd'), '-v2', ...shim];
  }
});

/** All mail into one file. TLS is not exim's business here. */
function configurationFor(folder: string): string {
  return `
primary_hostname = mail.example.org
spool_directory = ${folder}/spool
log_file_path = ${folder}/%slog
tls_advertise_hosts =
acl_smtp_rcpt = accept
keep_environment =
deliver_drop_privilege
begin routers
all:
  driver = accept
  transport = mailbox
begin transports
mailbox:
  driver = appendfile
  file = ${folder}/mailbox
`;
}

async function assertInMailbox(folder: string): Promise<void> {
  const read = (): string => {
    try {
      return readFileSync(join(folder, 'mailbox'), 'latin1');
    } catch {
      return '';
    }
  };
  // exim takes the message first and delivers it then.
  await until('the message is in the mailbox', () => read().includes('Yours, Alice'));
  assertContent(read());
}
