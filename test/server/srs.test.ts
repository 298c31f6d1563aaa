/** SRS in the server: --srs and --srs-keys, in one process and with workers, and keys that change. */

import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { createSrs } from '../../lib/srs/srs.ts';
import { startFarServer } from '../support/far-server.ts';
import { until } from '../support/processes.ts';
import { fixture, ours } from '../support/programs.ts';
import { run } from '../support/real.ts';
import { certificateForAll, type RunningServer, startServer } from '../support/server.ts';
import { connectTls, connectTo, type SmtpClient } from '../support/smtp-client.ts';

const NO_SRS = '550 5.1.1 Invalid or expired SRS address';

/** An SRS address of bob@other.example with this key. */
function srs0(key: string): string {
  const srs = createSrs({ keys: [Buffer.from(key)], hashLength: 4, hashMin: 4, maxAge: 21, separator: '=' });
  return `${srs.forward({ local: 'bob', domain: 'other.example' }, Date.now())}@ours.example`;
}

interface Scene {
  readonly server: RunningServer;
  /** What all smtpds have received so far. */
  received(): string;
  /** Writes the file of keys. */
  write(text: string): void;
}

async function open(
  t: TestContext,
  options: readonly string[] = [],
  smtpd?: readonly string[],
  environment = {},
): Promise<Scene> {
  const folder = mkdtempSync(join(tmpdir(), 'server-srs-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const keys = join(folder, 'keys');
  const record = join(folder, 'record');
  const write = (text: string): void => writeFileSync(keys, text);
  write('tops3cr3t\n');
  chmodSync(keys, 0o600);
  writeFileSync(record, '');
  chmodSync(folder, 0o755);
  chmodSync(record, 0o666);
  const words = ['-v', '2', '--srs', 'ours.example,second.example', '--srs-keys', keys, ...options];
  const server = await startServer(words, smtpd ?? fixture('smtpd-script', `--record=${record}`), {
    environment,
  });
  t.after(server.close);
  return { server, received: () => readFileSync(record, 'latin1'), write };
}

/** Sends a message from another domain, to a recipient. @returns the reply to RCPT. */
async function send(client: SmtpClient, recipient: string): Promise<string> {
  assert.match(await client.ask('MAIL FROM:<bob@other.example>'), /^250 /);
  const reply = await client.ask(`RCPT TO:<${recipient}>`);
  assert.match(await client.ask('RSET'), /^250 /);
  return reply;
}

const SENDER =
  /MAIL FROM:<SRS0=.{4}=..=other\.example=bob@ours\.example>\r\nRCPT TO:<bob@other\.example>\r\n/;

describe('--srs of the server', { concurrency: 3, timeout: 60_000 }, () => {
  for (const options of [[], ['--on-demand'], ['--fresh'], ['--workers', '2']]) {
    it(`rewrites both ways in TLS ${options.join(' ')}`, async (t) => {
      const { server, received } = await open(t, options);
      const client = await connectTls(t, server);
      assert.match(await send(client, srs0('tops3cr3t')), /^250 /);
      assert.match(received(), SENDER);
      assert.equal(await send(client, srs0('guess')), NO_SRS);
      assert.ok(!received().includes('SRS0=') || received().split('RCPT').length === 2);
      await server.logs(/event=envelope .*text="recipient refused: SRS0=\S+: forged SRS address"/);
    });
  }

  it('rewrites in cleartext', async (t) => {
    const { server, received } = await open(t);
    const client = await connectTo(t, server);
    await client.reply();
    await client.ask('EHLO me');
    assert.match(await send(client, srs0('tops3cr3t')), /^250 /);
    assert.match(received(), SENDER);
  });

  it('packs only with --srs-pack, for the server of a URL', async (t) => {
    const far = await startFarServer(t, {});
    const to = ['--no-starttls', '--srs-pack', '--to', `smtp://localhost:${far.port}`];
    const { server } = await open(t, to, []);
    const client = await connectTo(t, server);
    await client.reply();
    await client.ask('EHLO me');
    await send(client, srs0('tops3cr3t'));
    assert.match(far.connections[0]?.cleartext ?? '', /MAIL FROM:<SRS0=.*\r\nRCPT TO:<SRS0=/);
  });

  for (const workers of ['1', '2']) {
    it(`uses new keys for new sessions, and keeps those of the old (--workers ${workers})`, async (t) => {
      const { server, write } = await open(t, ['--workers', workers]);
      const before = await connectTls(t, server);
      assert.match(await send(before, srs0('tops3cr3t')), /^250 /);
      write('# new\nanother\ntops3cr3t\n');
      server.signal('SIGHUP');
      await server.logs(/event=secrets text="2 SRS keys in 3 lines of \S+"/);
      await server.logs(/event=secrets text="loaded new keys, certificates and SRS keys"/);
      assert.equal(await send(before, srs0('another')), NO_SRS);
      const served = async (): Promise<string> => send(await connectTls(t, server), srs0('another'));
      assert.match(await served(), /^250 /);
      assert.match(await served(), /^250 /);
    });
  }

  it('notices keys that change, without a signal', async (t) => {
    const { server, write } = await open(t);
    write('another\n');
    await server.logs(/loaded new keys, certificates and SRS keys/);
    assert.match(await send(await connectTls(t, server), srs0('another')), /^250 /);
    assert.equal(await send(await connectTls(t, server), srs0('tops3cr3t')), NO_SRS);
  });

  it('keeps the previous keys if there are none in the file', async (t) => {
    const { server, write } = await open(t);
    write('# none\n');
    server.signal('SIGHUP');
    await server.logs(/no key in it; keeping the previous keys, certificates and SRS keys/);
    assert.match(await send(await connectTls(t, server), srs0('tops3cr3t')), /^250 /);
  });

  it('reads keys of root before it becomes another user', {
    skip: process.getuid?.() !== 0 && 'not root',
  }, async (t) => {
    const { server, received } = await open(
      t,
      ['-u', '65534', '-g', '65534'],
      undefined,
      certificateForAll(t),
    );
    assert.match(await send(await connectTls(t, server), srs0('tops3cr3t')), /^250 /);
    await until('smtpd has the command', () => SENDER.test(received()));
  });
});

describe('a usage error of SRS', () => {
  const errors: readonly (readonly [words: readonly string[], message: string])[] = [
    [['--srs-keys', 'keys'], '--srs-keys requires --srs'],
    [['--srs-pack'], '--srs-pack requires --srs'],
    [['--srs', 'a.example'], 'missing --srs-keys FILE'],
    [['--srs', 'a b', '--srs-keys', 'keys'], '--srs takes domains separated by commas, not "a b"'],
    [['--received', 'a b'], '--received takes a host name, not "a b"'],
  ];
  for (const [words, message] of errors) {
    it(message, async () => {
      const { status, stderr } = await run([
        ours('smtpd-starttls-server'),
        ...words,
        '127.0.0.1',
        '0',
        'smtpd',
      ]);
      assert.equal(stderr, `smtpd-starttls-server: fatal: usage error: ${message}\n`);
      assert.equal(status, 100);
    });
  }
});
