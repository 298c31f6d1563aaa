/** exim behind our programs, as configured in their man pages: it has the client address, and is not an open relay. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { NO_UCSPI_TCP, serve } from '../support/chain.ts';
import { eximIn, recipeIn } from '../support/exim.ts';
import { until } from '../support/processes.ts';
import { missing, ours } from '../support/programs.ts';
import { run } from '../support/real.ts';
import { makeFolder } from '../support/real-chain.ts';
import { startServer } from '../support/server.ts';
import { connectSmtp } from '../support/smtp-client.ts';

const certificates = makeCertificates();
const pair = certificates.selfSigned('localhost');
const KEYS: NodeJS.ProcessEnv = { CERTFILE: pair.certFile, KEYFILE: pair.keyFile };

after(() => certificates.remove());

/** Starts a front end before exim and returns its port. */
const FRONT_ENDS: Readonly<Record<string, (t: TestContext, smtpd: readonly string[]) => Promise<number>>> = {
  'smtpd-starttls-server': async (t, smtpd) => {
    const server = await startServer([], smtpd, { environment: KEYS });
    t.after(server.close);
    return server.port;
  },
  'smtpd-starttls-proxy': (t, smtpd) => serveOne(t, [ours('smtpd-starttls-proxy'), ...smtpd]),
  'smtpd-starttls-proxy-io': (t, smtpd) =>
    serveOne(t, [ours('ucspi-tlsd'), ours('smtpd-starttls-proxy-io'), ...smtpd]),
};

/** As under inetd, which sets no variables. */
async function serveOne(t: TestContext, command: readonly string[]): Promise<number> {
  const chain = await serve(command, { ...KEYS, ...NO_UCSPI_TCP });
  t.after(chain.close);
  return chain.port;
}

describe('exim4 -bs behind', {
  concurrency: 3,
  timeout: 60_000,
  skip: process.getuid?.() === 0 ? missing('exim4') : 'exim takes another configuration from root alone',
}, () => {
  for (const [name, start] of Object.entries(FRONT_ENDS)) {
    for (const how of ['TLS', 'cleartext']) {
      it(`${name} refuses to relay and names the client, in ${how}`, async (t) => {
        const folder = makeFolder(t);
        const client = await connectSmtp(await start(t, eximIn(folder)));
        t.after(client.destroy);
        assert.match(await client.reply(), /^220 /);
        if (how === 'TLS') await client.startTls();
        assert.match(
          await client.ask('EHLO client.example'),
          /^250-\S+ Hello client\.example \[127\.0\.0\.1\]\n/,
        );
        assert.match(await client.ask('MAIL FROM:<alice@example.org>'), /^250 /);
        assert.match(await client.ask('RCPT TO:<victim@elsewhere.example>'), /^550 relay not permitted$/);
        assert.match(await client.ask('RCPT TO:<bob@example.net>'), /^250 /);
        assert.match(await client.ask('DATA'), /^354 /);
        assert.match(await client.ask('Subject: hello\r\n\r\nhello\r\n.'), /^250 /);
        assert.match(await client.ask('QUIT'), /^221 /);
        const mailbox = (): string => readFileSync(join(folder, 'mailbox'), 'latin1');
        await until('the message is in the mailbox', () => {
          try {
            return mailbox().includes('hello');
          } catch {
            return false;
          }
        });
        assert.match(mailbox(), /^Received: from \[127\.0\.0\.1\] \(helo=client\.example\)$/m);
      });
    }
  }
});

describe('the recipe for exim', () => {
  it('is the same in the man pages of all three programs', () => {
    const recipes = Object.keys(FRONT_ENDS).map(recipeIn);
    assert.equal(new Set(recipes).size, 1);
  });

  it('fails when the address of the client is unknown', async (t) => {
    const { status, stdout } = await run(eximIn(makeFolder(t)), { environment: NO_UCSPI_TCP });
    assert.notEqual(status, 0);
    assert.equal(stdout, '');
  });
});
