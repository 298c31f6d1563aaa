/** The C smtpd-starttls-proxy-io, as a double, under UCSPI-TLS servers: it half-closes the control socket. */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { serve } from '../support/chain.ts';
import { fixture, missing, ours, ROOT } from '../support/programs.ts';
import { makeFolder } from '../support/real-chain.ts';
import { certificate } from '../support/shim.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';

const DOUBLE = join(ROOT, 'test/support/programs/c-shim-double.pl');

const SERVERS: readonly (readonly [name: string, command: () => readonly string[]])[] = [
  ['ucspi-tlsd', () => [ours('ucspi-tlsd')]],
  ['s6-ucspitlsd', () => fixture('s6-ucspitlsd-double')],
];

/** The C shim in front of smtpd-maildir, a client, and the delivered messages. */
interface Setting {
  readonly client: SmtpClient;
  mails(): string[];
  /** Settles with the exit status when the chain has ended. */
  status(): Promise<number | null>;
}

async function open(t: TestContext, server: readonly string[], options: readonly string[]): Promise<Setting> {
  const folder = join(makeFolder(t), 'Maildir');
  const { certFile, keyFile } = certificate();
  const chain = await serve([...server, DOUBLE, ...options, ours('smtpd-maildir'), folder], {
    CERTFILE: certFile,
    KEYFILE: keyFile,
  });
  t.after(chain.close);
  const client = await connectSmtp(chain.port);
  t.after(client.destroy);
  assert.match(await client.reply(), /^220 /);
  assert.match(await client.ask('EHLO client.example'), /\n250-STARTTLS\n/);
  return {
    client,
    mails: () =>
      readdirSync(join(folder, 'new')).map((name) => readFileSync(join(folder, 'new', name), 'utf8')),
    status: async () => (await (await chain.served(0)).ended).code,
  };
}

async function deliver({ client, mails, status }: Setting): Promise<void> {
  assert.match(await client.ask('MAIL FROM:<me@example.org>'), /^250 /);
  assert.match(await client.ask('RCPT TO:<you@example.org>'), /^250 /);
  assert.match(await client.ask('DATA'), /^354 /);
  assert.match(await client.ask('Subject: hello\r\n\r\nhello\r\n.'), /^250 /);
  assert.match(await client.ask('QUIT'), /^221 /);
  assert.equal(await client.rest(), '');
  client.end();
  assert.equal(await status(), 0);
  assert.equal(mails().length, 1);
  assert.match(mails()[0] ?? '', /\nSubject: hello\n\nhello\n$/);
}

for (const [name, server] of SERVERS) {
  describe(`the C shim under ${name}`, {
    concurrency: 3,
    timeout: 60_000,
    skip: missing('perl', 's6-ioconnect'),
  }, () => {
    for (const command of ['Y', 'y']) {
      it(`delivers over TLS, which it requests with ${command}`, async (t) => {
        const setting = await open(t, server(), [`--command=${command}`]);
        await setting.client.startTls();
        assert.match(await setting.client.ask('EHLO client.example'), /^250-/);
        await deliver(setting);
      });
    }

    it('delivers in cleartext', async (t) => {
      await deliver(await open(t, server(), []));
    });
  });
}
