/** A server shuts down, reloads certificates, or loses a worker, while mail flows. */

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

/** Asserts that every message with reply 250 was delivered once, and none twice. */
function assertDelivered(sent: readonly Sent[], maildir: string): void {
  const found = readMaildir(maildir);
  for (const { id, reply } of sent) {
    const times = found.get(id) ?? 0;
    if (reply?.startsWith('250')) assert.equal(times, 1, `${id}, answered ${reply}`);
    else assert.ok(times <= 1, `${id} was delivered ${times} times`);
  }
  assert.ok(
    [...found.keys()].every((id) => sent.some((one) => one.id === id)),
    'a message was delivered that was not sent',
  );
}

/** Whether a process without its parent has ended, or is a zombie that init has yet to reap. */
function isOver(pid: number): boolean {
  try {
    return isGone(pid) || statusOf(pid, 'State').startsWith('Z');
  } catch {
    // It ended between the two checks.
    return true;
  }
}

/** How a session ends for a client that is no longer served: 421, or a closed connection. */
const CLOSING_REPLY =
  /^(?:Error: expected.*|Error: )?"?421 |ECONNREFUSED|ECONNRESET|EPIPE|the connection has ended/;

describe('SIGTERM while mail flows', { concurrency: 3 }, () => {
  for (const workers of ['1', '2']) {
    it(`with ${workers === '1' ? 'one process' : 'two workers'}: nothing accepted is lost or doubled`, async (t) => {
      const maildir = join(makeFolder(t), 'Maildir');
      const options = ['-q', '--grace', '1', '--workers', workers];
      const server = await startServer(options, [ours('smtpd-maildir'), maildir]);
      t.after(() => server.close());
      // Endless sessions: they are aborted in a message, or between two.
      const flow = startMailFlow(server.port, 6, Number.POSITIVE_INFINITY);
      await flow.more(20);
      server.signal('SIGTERM');
      const { sent, closingReplies } = await flow.ended;
      assert.deepEqual(await server.ended, { code: 0, signal: null });
      assertDelivered(sent, maildir);
      assert.equal(closingReplies.length, 6);
      for (const words of closingReplies) assert.match(words, CLOSING_REPLY);
      assert.ok(
        closingReplies.some((words) => words.includes('421')),
        closingReplies.join('\n'),
      );
      t.diagnostic(`${sent.length} messages, ${flow.accepted()} accepted; ${closingReplies.join(' | ')}`);
    });
  }

  it('lets sessions end within the grace time, and accepts no others', async (t) => {
    const maildir = join(makeFolder(t), 'Maildir');
    const server = await startServer(['-q', '--grace', '60'], [ours('smtpd-maildir'), maildir]);
    t.after(() => server.close());
    const flow = startMailFlow(server.port, 4, 5);
    await flow.more(4);
    server.signal('SIGTERM');
    const { sent, closingReplies } = await flow.ended;
    assert.deepEqual(await server.ended, { code: 0, signal: null });
    assertDelivered(sent, maildir);
    assert.deepEqual(
      sent.filter(({ reply }) => !reply?.startsWith('250')),
      [],
    );
    for (const words of closingReplies) assert.match(words, CLOSING_REPLY);
  });
});

describe('a certificate that is renewed while sessions come and go', { concurrency: 2 }, () => {
  for (const workers of ['1', '2'])
    for (const way of ['SIGHUP', 'a change of the file'] as const) {
      it(`by ${way}, with ${workers} process(es): no session is lost, and the new one is sent`, async (t) => {
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
        // The file is checked every five seconds, and must be unchanged between two checks.
        const end = Date.now() + 60_000;
        while (names.at(-1) !== 'new.example') {
          assert.ok(Date.now() < end, 'the new certificate is never sent');
          names.push(...(await Promise.all([0, 1, 2].map(() => nameSeen(server.port)))));
          if (way !== 'SIGHUP') await new Promise((resolve) => setTimeout(resolve, 50));
        }
        assert.match(await staying.ask('NOOP'), /^250 /);
        assert.equal(server.stderr(), '');
        t.diagnostic(`${names.length} sessions`);
      });
    }

  /** Runs one session and returns the certificate name. @throws Error when the session is not completed. */
  async function nameSeen(port: number): Promise<string> {
    const client = await openInTls(port);
    const name = String(client.tls().getPeerCertificate().subject.CN);
    await quit(client);
    return name;
  }

  /** Replaces the files one after the other, each by renaming, as certbot and others do. */
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
  it('loses only its own sessions, and is replaced', async (t) => {
    const maildir = join(makeFolder(t), 'Maildir');
    const server = await startServer(['--workers', '2'], [ours('smtpd-maildir'), maildir]);
    t.after(() => server.close());
    const quiet = await Promise.all(Array.from({ length: 8 }, () => openInTls(server.port)));
    t.after(() => {
      for (const client of quiet) client.destroy();
    });
    // The worker with more sessions.
    const counted = serversOf(server.pid)
      .slice(1)
      .map((pid) => ({ pid, sessions: smtpdsOf(pid).length }))
      .sort((one, other) => other.sessions - one.sessions);
    const [victim = { pid: 0, sessions: 0 }, survivor = victim] = counted;
    const flow = startMailFlow(server.port, 6, 3);
    await flow.more(10);
    const orphans = smtpdsOf(victim.pid);
    process.kill(victim.pid, 'SIGKILL');
    await server.logs(/worker-ended/);
    await until('another worker has started', () => serversOf(server.pid).length === 3);
    assert.ok(serversOf(server.pid).includes(survivor.pid));
    await until('its smtpds have ended', () => orphans.every(isOver));
    flow.stop();
    assertDelivered((await flow.ended).sent, maildir);
    const answers = await Promise.all(quiet.map((client) => client.ask('NOOP').catch(() => 'lost')));
    assert.equal(answers.filter((answer) => answer === 'lost').length, victim.sessions);
    // New sessions are served by either worker.
    const after = startMailFlow(server.port, 6, 3);
    await after.more(10);
    after.stop();
    assert.deepEqual((await after.ended).closingReplies, []);
  });
});

describe('the primary of two workers that is killed while mail flows', () => {
  it('leaves workers that shut down gracefully: nothing accepted is lost or doubled', async (t) => {
    const maildir = join(makeFolder(t), 'Maildir');
    const server = await startServer(['--workers', '2', '--grace', '1'], [ours('smtpd-maildir'), maildir]);
    t.after(() => server.close());
    const flow = startMailFlow(server.port, 6, Number.POSITIVE_INFINITY);
    await flow.more(20);
    const workers = serversOf(server.pid).slice(1);
    process.kill(server.pid, 'SIGKILL');
    const { sent, closingReplies } = await flow.ended;
    await until('the workers have ended', () => workers.every(isOver), 20_000);
    assertDelivered(sent, maildir);
    for (const words of closingReplies) assert.match(words, CLOSING_REPLY);
    await server.logs(/primary-gone/);
  });
});
