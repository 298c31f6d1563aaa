/** A server is told to end, gets new certificates, or loses a worker, while mail flows. */

import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { nullSmtpd } from '../bench/smtpd.ts';
import { makeCertificates, type Pair } from '../support/certificate.ts';
import { isGone, statusOf, until } from '../support/processes.ts';
import { ours } from '../support/programs.ts';
import { startServer } from '../support/server.ts';
import { openInTls, quit } from './crowd.ts';
import { readMaildir, type Sent, startMailFlow } from './mail-flow.ts';
import { serversOf, smtpdsOf } from './vitals.ts';

function makeFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'load-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Asserts that what was answered with 250 is there once, and nothing is there twice. */
function assertDelivered(sent: readonly Sent[], maildir: string): void {
  const found = readMaildir(maildir);
  for (const { id, reply } of sent) {
    const times = found.get(id) ?? 0;
    if (reply?.startsWith('250')) assert.equal(times, 1, `${id}, answered ${reply}`);
    else assert.ok(times <= 1, `${id} is there ${times} times`);
  }
  assert.ok(
    [...found.keys()].every((id) => sent.some((one) => one.id === id)),
    'there is mail that nobody has sent',
  );
}

/** Whether a process that has lost its parent is gone, or a zombie that is for others to bury. */
function isOver(pid: number): boolean {
  try {
    return isGone(pid) || statusOf(pid, 'State').startsWith('Z');
  } catch {
    // Gone between the two looks.
    return true;
  }
}

/** What a client hears that is not served any longer: 421, or nothing any more. */
const FAREWELL =
  /^(?:Error: expected.*|Error: )?"?421 |ECONNREFUSED|ECONNRESET|EPIPE|the connection has ended/;

describe('SIGTERM while mail flows', { concurrency: 3 }, () => {
  for (const workers of ['1', '2']) {
    it(`with ${workers === '1' ? 'one process' : 'two workers'}: nothing accepted is lost or doubled`, async (t) => {
      const maildir = join(makeFolder(t), 'Maildir');
      const options = ['-q', '--grace', '1', '--workers', workers];
      const server = await startServer(options, [ours('smtpd-maildir'), maildir]);
      t.after(() => server.close());
      // Sessions that would go on for ever: they are cut off in a message, or between two.
      const flow = startMailFlow(server.port, 6, Number.POSITIVE_INFINITY);
      await flow.more(20);
      server.signal('SIGTERM');
      const { sent, lastWords } = await flow.ended;
      assert.deepEqual(await server.ended, { code: 0, signal: null });
      assertDelivered(sent, maildir);
      assert.equal(lastWords.length, 6);
      for (const words of lastWords) assert.match(words, FAREWELL);
      assert.ok(
        lastWords.some((words) => words.includes('421')),
        lastWords.join('\n'),
      );
      t.diagnostic(`${sent.length} messages, ${flow.accepted()} accepted; ${lastWords.join(' | ')}`);
    });
  }

  it('lets sessions end that end in time, and takes no others', async (t) => {
    const maildir = join(makeFolder(t), 'Maildir');
    const server = await startServer(['-q', '--grace', '60'], [ours('smtpd-maildir'), maildir]);
    t.after(() => server.close());
    const flow = startMailFlow(server.port, 4, 5);
    await flow.more(4);
    server.signal('SIGTERM');
    const { sent, lastWords } = await flow.ended;
    assert.deepEqual(await server.ended, { code: 0, signal: null });
    assertDelivered(sent, maildir);
    assert.deepEqual(
      sent.filter(({ reply }) => !reply?.startsWith('250')),
      [],
    );
    for (const words of lastWords) assert.match(words, FAREWELL);
  });
});

describe('a certificate that is renewed while sessions come and go', { concurrency: 2 }, () => {
  for (const workers of ['1', '2'])
    for (const way of ['SIGHUP', 'the file alone'] as const) {
      it(`by ${way}, with ${workers} process(es): none is lost, and the new one is shown`, async (t) => {
        const folder = makeFolder(t);
        const maker = makeCertificates();
        t.after(() => maker.remove());
        const environment = { CERTFILE: join(folder, 'cert.pem'), KEYFILE: join(folder, 'key.pem') };
        install(maker.selfSigned('old.example'), environment);
        const options = ['-q', '--workers', workers];
        const server = await startServer(options, nullSmtpd(folder).command, { environment });
        t.after(() => server.close());
        const staying = await openInTls(server.port);
        t.after(() => staying.destroy());

        install(maker.selfSigned('new.example'), environment);
        if (way === 'SIGHUP') server.signal('SIGHUP');
        const names: string[] = [];
        // The file is looked at every five seconds, and must have rested once.
        const end = Date.now() + 60_000;
        while (names.at(-1) !== 'new.example') {
          assert.ok(Date.now() < end, 'the new certificate is never shown');
          names.push(...(await Promise.all([0, 1, 2].map(() => nameSeen(server.port)))));
          if (way !== 'SIGHUP') await new Promise((resolve) => setTimeout(resolve, 50));
        }
        assert.match(await staying.ask('NOOP'), /^250 /);
        assert.equal(server.stderr(), '');
        t.diagnostic(`${names.length} sessions`);
      });
    }

  /** One session; whoever is not served to the end throws. */
  async function nameSeen(port: number): Promise<string> {
    const client = await openInTls(port);
    const name = String(client.tls().getPeerCertificate().subject.CN);
    await quit(client);
    return name;
  }

  /** One after the other, each by renaming, as certbot and others do. */
  function install(pair: Pair, { CERTFILE, KEYFILE }: { CERTFILE: string; KEYFILE: string }): void {
    for (const [from, to] of [
      [pair.certFile, CERTFILE],
      [pair.keyFile, KEYFILE],
    ] as const) {
      copyFileSync(from, `${to}.new`);
      renameSync(`${to}.new`, to);
    }
  }
});

describe('a worker that is killed while mail flows', () => {
  it('takes its own sessions with it and no others; another one comes in its place', async (t) => {
    const maildir = join(makeFolder(t), 'Maildir');
    const server = await startServer(['--workers', '2'], [ours('smtpd-maildir'), maildir]);
    t.after(() => server.close());
    const quiet = await Promise.all(Array.from({ length: 8 }, () => openInTls(server.port)));
    t.after(() => {
      for (const client of quiet) client.destroy();
    });
    // The one that has more of them.
    const counted = serversOf(server.pid)
      .slice(1)
      .map((pid) => ({ pid, sessions: smtpdsOf(pid).length }))
      .sort((one, other) => other.sessions - one.sessions);
    const [victim = { pid: 0, sessions: 0 }, survivor = victim] = counted;
    const flow = startMailFlow(server.port, 6, 3);
    await flow.more(10);
    const orphans = smtpdsOf(victim.pid);
    process.kill(victim.pid, 'SIGKILL');
    await server.says(/worker-ended/);
    await until('another worker has come', () => serversOf(server.pid).length === 3);
    assert.ok(serversOf(server.pid).includes(survivor.pid));
    await until('its smtpds have ended', () => orphans.every(isOver));
    flow.stop();
    assertDelivered((await flow.ended).sent, maildir);
    const answers = await Promise.all(quiet.map((client) => client.ask('NOOP').catch(() => 'lost')));
    assert.equal(answers.filter((answer) => answer === 'lost').length, victim.sessions);
    // Whoever comes now is served, whichever worker takes the connection.
    const after = startMailFlow(server.port, 6, 3);
    await after.more(10);
    after.stop();
    assert.deepEqual((await after.ended).lastWords, []);
  });
});

describe('the primary of two workers that is killed while mail flows', () => {
  it('leaves workers behind that end in good order: nothing accepted is lost or doubled', async (t) => {
    const maildir = join(makeFolder(t), 'Maildir');
    const server = await startServer(['--workers', '2', '--grace', '1'], [ours('smtpd-maildir'), maildir]);
    t.after(() => server.close());
    const flow = startMailFlow(server.port, 6, Number.POSITIVE_INFINITY);
    await flow.more(20);
    const workers = serversOf(server.pid).slice(1);
    process.kill(server.pid, 'SIGKILL');
    const { sent, lastWords } = await flow.ended;
    await until('the workers have ended', () => workers.every(isOver), 20_000);
    assertDelivered(sent, maildir);
    for (const words of lastWords) assert.match(words, FAREWELL);
    await server.says(/primary-gone/);
  });
});
