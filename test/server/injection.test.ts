/**
 * CVE-2011-0411, where the server does TLS itself: bytes that arrive in cleartext after STARTTLS must never
 * reach smtpd, however they are split and whenever they arrive. smtpd's record of what it has read decides.
 */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { smtpdsOf } from '../reliability/vitals.ts';
import { unreadOctets } from '../support/kernel.ts';
import { until } from '../support/processes.ts';
import { fixture } from '../support/programs.ts';
import { startServer } from '../support/server.ts';
import { certificate } from '../support/shim.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';

const INJECTED = 'XDO say 250 INJECTED\r\n';
const ATTACK = `STARTTLS\r\n${INJECTED}`;
const LINE_END = 'STARTTLS\r\n'.length;

/** One client and one smtpd of a server. */
interface Run {
  readonly client: SmtpClient;
  /** All that smtpd has read so far. */
  record(): string;
  /** Settles when smtpd has read that. */
  hasRead(text: string): Promise<void>;
  /** Resumes an smtpd that waits for a signal, once it does. */
  release(): Promise<void>;
  /** Settles when smtpd has exited. */
  isOver(): Promise<void>;
  /** How many octets of the client are unread. */
  unread(): number;
}

/** How to run the server. */
interface Setup {
  readonly options?: readonly string[];
  readonly environment?: NodeJS.ProcessEnv;
  /** Options of smtpd-script. */
  readonly smtpd?: readonly string[];
}

async function open(t: TestContext, { options = [], environment, smtpd = [] }: Setup = {}): Promise<Run> {
  const folder = mkdtempSync(join(tmpdir(), 'injection-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const record = join(folder, 'record');
  const command = fixture('smtpd-script', `--record=${record}`, ...smtpd);
  const server = await startServer(options, command, environment === undefined ? {} : { environment });
  t.after(() => server.close());
  const client = await connectSmtp(server.port);
  t.after(() => client.destroy());
  const run: Run = {
    client,
    record: () => (existsSync(record) ? readFileSync(record, 'latin1') : ''),
    hasRead: (text) => until(`smtpd reads ${text}`, () => run.record().includes(text)),
    release: async () => {
      await until('smtpd waits', () => existsSync(`${record}.waits`));
      for (const smtpd of smtpdsOf(server.pid)) process.kill(smtpd, 'SIGUSR1');
    },
    isOver: () => until('smtpd has ended', () => smtpdsOf(server.pid).length === 0),
    unread: () => unreadOctets(server.port, client.tcp().localPort ?? 0),
  };
  return run;
}

/** The same, after the greeting. */
async function openGreeted(t: TestContext, setup?: Setup): Promise<Run> {
  const run = await open(t, setup);
  assert.match(await run.client.reply(), /^220 /);
  return run;
}

/** Settles when all that the client has sent was read. */
function isRead(run: Run): Promise<void> {
  return until('all is read', () => run.unread() === 0);
}

/** Ends the session and asserts that only a TLS engine received what was injected. */
async function assertUnseen({ client, isOver, record }: Run): Promise<void> {
  const received = await client.rest().catch(() => '');
  client.destroy();
  await isOver();
  assert.doesNotMatch(received, /INJECTED/);
  assert.doesNotMatch(record(), /INJECTED|XDO|say 250/);
}

const { certFile, keyFile } = certificate();

/** Configurations in which the bytes after STARTTLS reach the TLS engine on different paths. */
const WAYS: readonly (readonly [string, Setup])[] = [
  ['with one process', {}],
  ['with two workers', { options: ['--workers', '2'] }],
  ['with a second smtpd', { options: ['--fresh'] }],
  // The ClientHello is inspected before the TLS engine reads it.
  [
    'with certificates by name',
    {
      options: ['-k', '1'],
      environment: { 'CERTFILE:mail.example.org': certFile, 'KEYFILE:mail.example.org': keyFile },
    },
  ],
];

/** Starts TLS, and asserts that smtpd has read exactly this by the end. */
async function assertGoesOn(run: Run, record: string): Promise<void> {
  await run.client.startTls();
  assert.equal(await run.client.ask('NOOP'), '250 2.0.0 Ok');
  run.client.say('QUIT');
  assert.equal(await run.client.rest(), '221 2.0.0 Bye\r\n');
  await assertUnseen(run);
  assert.equal(run.record(), record);
}

describe('commands injected behind STARTTLS, at the server', { concurrency: 4 }, () => {
  for (const [way, setup] of WAYS) {
    it(`in the same packet are refused and discarded, ${way}; TLS may be started later`, async (t) => {
      const run = await openGreeted(t, setup);
      run.client.send(ATTACK);
      assert.match(await run.client.reply(), /^503 5\.5\.1 /);
      await assertGoesOn(run, 'RSET\r\nNOOP\r\nQUIT\r\n');
    });

    it(`in a packet before the 220 go to the TLS engine, ${way}`, async (t) => {
      const run = await openGreeted(t, { ...setup, smtpd: ['--on=RSET:await-signal; say 250 ok'] });
      run.client.say('STARTTLS');
      await run.hasRead('RSET\r\n');
      run.client.send(INJECTED);
      await run.release();
      assert.match(await run.client.reply(), /^220 /);
      await assertUnseen(run);
      assert.equal(run.record(), 'RSET\r\n');
    });

    it(`in a packet after the 220 go to the TLS engine, ${way}`, async (t) => {
      const run = await openGreeted(t, setup);
      assert.match(await run.client.ask('STARTTLS'), /^220 /);
      run.client.send(INJECTED);
      await assertUnseen(run);
      assert.equal(run.record(), 'RSET\r\n');
    });

    it(`before the ClientHello go to the TLS engine with it, ${way}`, async (t) => {
      const run = await openGreeted(t, setup);
      assert.match(await run.client.ask('STARTTLS'), /^220 /);
      run.client.send(INJECTED);
      await assert.rejects(run.client.shakeHands());
      await assertUnseen(run);
      assert.equal(run.record(), 'RSET\r\n');
    });

    it(`never reach smtpd when a ClientHello follows them before the 220, ${way}`, async (t) => {
      const run = await openGreeted(t, { ...setup, smtpd: ['--on=RSET:await-signal; say 250 ok'] });
      run.client.say('STARTTLS');
      await run.hasRead('RSET\r\n');
      run.client.send(INJECTED);
      const handshake = assert.rejects(run.client.shakeHands());
      await run.release();
      await handshake;
      await assertUnseen(run);
      assert.equal(run.record(), 'RSET\r\n');
    });
  }

  it('are refused with any line ending', async (t) => {
    const run = await openGreeted(t);
    for (const attack of [
      `STARTTLS\n${INJECTED}`,
      `starttls\r\n\r\n${INJECTED}`,
      `STARTTLS \r\n${INJECTED}`,
      `\tSTARTTLS\r\n${INJECTED}`,
      `STARTTLS\r\n${INJECTED.trimEnd()}\n`,
      `STARTTLS\r\n${INJECTED.repeat(500)}`,
      `STARTTLS\r\nSTARTTLS\r\n${INJECTED}`,
    ]) {
      run.client.send(attack);
      assert.match(await run.client.reply(), /^503 5\.5\.1 /, attack);
    }
    await assertGoesOn(run, 'RSET\r\nNOOP\r\nQUIT\r\n');
  });

  it('are refused when the STARTTLS line arrives in two packets, split at any byte', async (t) => {
    const run = await openGreeted(t);
    for (let cut = 1; cut < LINE_END; cut++) {
      run.client.send(ATTACK.slice(0, cut));
      await isRead(run);
      run.client.send(ATTACK.slice(cut));
      assert.match(await run.client.reply(), /^503 5\.5\.1 /, `cut at ${cut}`);
    }
    await assertGoesOn(run, 'RSET\r\nNOOP\r\nQUIT\r\n');
  });

  for (let cut = LINE_END; cut < ATTACK.length; cut++) {
    it(`never reach smtpd when split from it at byte ${cut}`, async (t) => {
      const run = await openGreeted(t);
      run.client.send(ATTACK.slice(0, cut));
      await isRead(run);
      run.client.send(ATTACK.slice(cut));
      assert.match(await run.client.reply(), cut === LINE_END ? /^220 / : /^503 /);
      if (cut !== LINE_END) run.client.say('QUIT');
      await assertUnseen(run);
      assert.equal(run.record(), cut === LINE_END ? 'RSET\r\n' : 'QUIT\r\n');
    });
  }

  it('never reach smtpd when everything arrives byte by byte', async (t) => {
    const run = await openGreeted(t);
    for (const byte of ATTACK) {
      run.client.send(byte);
      // After the 220 the TLS engine reads, and it fails after a few bytes.
      if (!run.record().includes('RSET')) await isRead(run);
    }
    assert.match(await run.client.reply(), /^220 /);
    await assertUnseen(run);
    assert.equal(run.record(), 'RSET\r\n');
  });

  it('never reach smtpd when a read ends exactly with the STARTTLS line', async (t) => {
    const run = await open(t, { smtpd: ['--start=await-signal; say 220 late'] });
    // A read is 65536 octets.
    const filler = `NOOP ${'x'.repeat(8185)}\r\n`.repeat(8);
    const first = `${filler.slice(0, -12)}\r\nSTARTTLS\r\n`;
    assert.equal(first.length, 65536);
    run.client.send(first + INJECTED);
    await run.release();
    assert.match(await run.client.reply(), /^220 late/);
    for (let count = 0; count < 8; count++) assert.equal(await run.client.reply(), '250 2.0.0 Ok');
    assert.match(await run.client.reply(), /^(220|503) /);
    await assertUnseen(run);
  });

  it('never reach smtpd with a PROXY header in the same packet', async (t) => {
    const run = await open(t, { options: ['--proxy-protocol', '127.0.0.1'] });
    run.client.send(`PROXY TCP4 192.0.2.7 192.0.2.8 4711 25\r\n${ATTACK}`);
    assert.match(await run.client.reply(), /^220 /);
    assert.match(await run.client.reply(), /^503 5\.5\.1 /);
    await assertGoesOn(run, 'RSET\r\nNOOP\r\nQUIT\r\n');
  });

  it('never reach smtpd before the ClientHello of --implicit-tls', async (t) => {
    const run = await open(t, { options: ['--implicit-tls'] });
    run.client.send(INJECTED);
    await assertUnseen(run);
    assert.equal(run.record(), '');
  });
});
