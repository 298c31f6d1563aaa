/** --received and --strict-newlines, in all programs that have them. */

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { serve } from '../support/chain.ts';
import { startFarServer } from '../support/far-server.ts';
import { until } from '../support/processes.ts';
import { fixture, ours } from '../support/programs.ts';
import { startRelay } from '../support/relay.ts';
import { serverEnvironment, startServer } from '../support/server.ts';
import { runShim } from '../support/shim.ts';
import { connectTo, type SmtpClient } from '../support/smtp-client.ts';
import { startSrs } from '../support/srs.ts';

const REFUSED = '550 5.6.0 Bare CR or LF in the message not allowed, closing connection';
const OPTIONS: readonly string[] = ['--received', 'mx.example', '--strict-newlines'];
const LMTP = '--on=LHLO:line 250-lmtp; line 250 CHUNKING';

interface Session {
  readonly client: SmtpClient;
  /** What smtpd has received so far. */
  received(): string;
  stderr(): string;
}

type Start = (t: TestContext, options?: readonly string[]) => Promise<Session>;

/** An smtpd that records what it receives. */
function recordingSmtpd(t: TestContext): { readonly command: readonly string[]; received(): string } {
  const folder = mkdtempSync(join(tmpdir(), 'envelope-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const record = join(folder, 'record');
  writeFileSync(record, '');
  return {
    command: fixture('smtpd-script', `--record=${record}`, LMTP),
    received: () => readFileSync(record, 'latin1'),
  };
}

async function startShim(t: TestContext, options = OPTIONS): Promise<Session> {
  const smtpd = recordingSmtpd(t);
  const { client, served } = await runShim(t, { server: 's6-ucspitlsd', options, command: smtpd.command });
  return { client, received: smtpd.received, stderr: served.stderr };
}

async function startProxy(t: TestContext, options = OPTIONS): Promise<Session> {
  const smtpd = recordingSmtpd(t);
  const chain = await serve(
    [ours('smtpd-starttls-proxy'), ...options, ...smtpd.command],
    serverEnvironment(),
  );
  t.after(chain.close);
  const client = await connectTo(t, chain);
  const { stderr } = await chain.served(0);
  return { client, received: smtpd.received, stderr };
}

function serverWith(...more: readonly string[]): Start {
  return async (t, options = OPTIONS) => {
    const smtpd = recordingSmtpd(t);
    const server = await startServer([...more, ...options], smtpd.command);
    t.after(server.close);
    return { client: await connectTo(t, server), received: smtpd.received, stderr: server.stderr };
  };
}

const PROGRAMS: readonly (readonly [name: string, start: Start])[] = [
  ['smtpd-starttls-proxy-io', startShim],
  ['smtpd-starttls-proxy', startProxy],
  ['smtpd-starttls-server', serverWith()],
  ['smtpd-starttls-server --on-demand', serverWith('--on-demand')],
  ['smtpd-starttls-server --fresh', serverWith('--fresh')],
  ['smtpd-starttls-server --workers', serverWith('--workers', '2')],
];

/** Sends a message after the hello. @returns the last reply. */
async function send(client: SmtpClient, message = 'Subject: hi\r\n\r\nHi.\r\n'): Promise<string> {
  client.sendLines('MAIL FROM:<a@b.example>', 'RCPT TO:<c@d.example>', 'DATA');
  assert.match(await client.reply(), /^250 /);
  assert.match(await client.reply(), /^250 /);
  assert.match(await client.reply(), /^354 /);
  client.send(`${message}.\r\n`);
  return client.reply();
}

/** The Received fields in what smtpd has received, each on one line, without its date. */
function fieldsIn(received: string): string[] {
  const lines = received.replaceAll(/\r\n +/g, ' ').split('\r\n');
  return lines.filter((line) => line.startsWith('Received: ')).map((line) => line.replace(/; .*/, ''));
}

for (const [name, start] of PROGRAMS) {
  describe(`--received of ${name}`, { concurrency: 2, timeout: 60_000 }, () => {
    it('records TLS, or its absence, in each message', async (t) => {
      const { client, received } = await start(t);
      await client.reply();
      await client.ask('EHLO clear.example');
      assert.match(await send(client), /^250 /);
      assert.match(await send(client), /^250 /);
      const [first = '', second = '', ...others] = fieldsIn(received());
      assert.match(
        first,
        /^Received: from clear\.example \(\[127\.0\.0\.1\]\) by mx\.example with ESMTP id \S+\.1$/,
      );
      assert.equal(second, first.replace(/1$/, '2'));
      assert.deepEqual(others, []);
      assert.match(
        received(),
        /DATA\r\nReceived: [^;]*;\r\n {2}\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000\r\nSubject: hi\r\n\r\nHi\.\r\n\.\r\n/,
      );
    });

    it('records TLS that is started after a hello', async (t) => {
      const { client, received } = await start(t);
      await client.reply();
      await client.ask('EHLO clear.example');
      await client.startTls({ minVersion: 'TLSv1.3' });
      await client.ask('EHLO tls.example');
      assert.match(await send(client), /^250 /);
      assert.match(await client.ask('AUTH PLAIN AGEAYg=='), /^235 /);
      assert.match(await send(client), /^250 /);
      const cipher = client.tls().getCipher().name;
      const [first = '', second = ''] = fieldsIn(received());
      assert.equal(
        first.replace(/ id \S+/, ''),
        `Received: from tls.example ([127.0.0.1]) by mx.example with ESMTPS (TLSv1.3 ${cipher}) tls ${cipher}`,
      );
      assert.match(second, / with ESMTPSA \(TLSv1\.3 /);
    });

    it('raises the size of the first chunk', async (t) => {
      const { client, received } = await start(t);
      await client.reply();
      assert.match(await client.ask('LHLO client.example'), /^250-lmtp/);
      client.send(
        'MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nBDAT 4\r\nabcdBDAT 4 LAST\r\nRSETNOOP\r\n',
      );
      for (let left = 5; left > 0; left--) assert.match(await client.reply(), /^250 /);
      const [, size = '', rest = ''] = /BDAT (\d+)\r\n(Received: .*)$/s.exec(received()) ?? [];
      assert.ok(rest.endsWith('abcdBDAT 4 LAST\r\nRSETNOOP\r\n'), rest);
      assert.equal(rest.indexOf('BDAT 4'), Number(size));
      assert.match(rest, / with LMTP\r\n/);
    });
  });

  describe(`--strict-newlines of ${name}`, { timeout: 60_000 }, () => {
    it('refuses a message that could be two, and ends the session', async (t) => {
      const { client, received, stderr } = await start(t, ['--strict-newlines']);
      await client.reply();
      await client.ask('EHLO client.example');
      await client.startTls();
      await client.ask('EHLO client.example');
      assert.match(await send(client), /^250 /);
      assert.equal(await send(client, 'Hi.\n.\r\nMAIL FROM:<eve@x.example>\r\n'), REFUSED);
      assert.equal(await client.rest(), '');
      await until('it is reported', () =>
        stderr().includes('message refused: it contains a bare CR or LF, closing'),
      );
      await until('smtpd has its end', () => received().endsWith('DATA\r\nHi.'));
    });
  });
}

describe('--received', { timeout: 60_000 }, () => {
  it('tells of TLS that the UCSPI-TLS server does not describe', async (t) => {
    const smtpd = recordingSmtpd(t);
    const { client } = await runShim(t, { server: 'empty', options: OPTIONS, command: smtpd.command });
    await client.reply();
    await client.startTls();
    await client.ask('EHLO tls.example');
    assert.match(await send(client), /^250 /);
    const [field = ''] = fieldsIn(smtpd.received());
    assert.match(field, / by mx\.example with ESMTPS id \S+$/);
  });
});

describe('--strict-newlines', { timeout: 60_000 }, () => {
  it('of smtpd-srs-io refuses such a message', async (t) => {
    const session = startSrs(t, { options: ['--strict-newlines'] });
    await session.reply();
    session.send('MAIL FROM:<a@ours.example>', 'RCPT TO:<c@d.example>', 'DATA', 'Hi.\n.', '.');
    for (let left = 3; left > 0; left--) await session.reply();
    assert.equal(await session.reply(), REFUSED);
    assert.equal(await session.rest(), '');
    assert.ok(session.received().endsWith('DATA\r\nHi.'));
  });

  it('of smtp-relay-io refuses such a message', async (t) => {
    const far = await startFarServer(t, {});
    const relay = startRelay(t, ['--strict-newlines', `smtp://localhost:${far.port}`]);
    await relay.reply();
    relay.send('EHLO x', 'MAIL FROM:<a@b.example>', 'RCPT TO:<c@d.example>', 'DATA', 'Hi.\r.\r', '.');
    for (let left = 4; left > 0; left--) await relay.reply();
    assert.equal(await relay.reply(), REFUSED);
    assert.equal(await relay.rest(), '');
    assert.match(far.connections[0]?.cleartext ?? '', /DATA\r\nHi\.$/);
  });
});
