/** Priorities under journald: sd-daemon(3), and JOURNAL_STREAM of systemd.exec(5). */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { fixture, ours } from '../support/programs.ts';
import { run } from '../support/real.ts';
import { passingSmtpd, startServer } from '../support/server.ts';
import { connectTo } from '../support/smtp-client.ts';
import { writeKeys } from '../support/srs.ts';

/** What runs a command with JOURNAL_STREAM set to what a shell expands to. */
function withStream(value: string): string[] {
  return ['sh', '-c', `export JOURNAL_STREAM="${value}"; exec "$@"`, 'sh'];
}

/** The device and inode of a descriptor of that shell. */
function inodeOf(descriptor: number): string {
  return `$(stat -L -c %d:%i /proc/self/fd/${descriptor})`;
}

/** As systemd starts a program. Here stderr is a socket, as there. */
const UNDER_JOURNALD = withStream(inodeOf(2));

/** A program, and arguments that it refuses in one line. */
const REFUSALS = [
  ['smtp-relay-io', '-t', 'x'],
  ['smtpd-maildir'],
  ['smtpd-srs-io'],
  ['smtpd-starttls-proxy'],
  ['smtpd-starttls-proxy-io'],
  ['smtpd-starttls-server'],
  ['ucspi-tlsd'],
] as const;

/** What a program writes to a file, its stderr. */
function writtenToFile(t: TestContext, [file = '', ...args]: readonly string[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'journal-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'log');
  const descriptor = openSync(path, 'w');
  spawnSync(file, args, { stdio: ['ignore', 'ignore', descriptor], timeout: 30_000 });
  closeSync(descriptor);
  return readFileSync(path, 'latin1');
}

describe('a line of a program', { concurrency: 2 }, () => {
  for (const [name, ...args] of REFUSALS) {
    it(`begins with its priority if journald reads it: ${name}`, async () => {
      const { stderr } = await run([...UNDER_JOURNALD, ours(name), ...args]);
      assert.match(stderr, new RegExp(`^<3>${name}: fatal: [^\\n<]+\\n$`));
    });
  }

  it('begins with its priority if JOURNAL_STREAM is any other kind of stderr', (t) => {
    assert.match(
      writtenToFile(t, [...UNDER_JOURNALD, ours('smtpd-maildir')]),
      /^<3>smtpd-maildir: fatal: [^\n<]+\n$/,
    );
  });

  for (const [what, value] of [
    ['names stdout', inodeOf(1)],
    ['has another device', `9${inodeOf(2)}`],
    ['has another inode', `${inodeOf(2)}9`],
    ['has no device', ':'],
    ['is empty', ''],
  ] as const) {
    it(`has no priority if JOURNAL_STREAM ${what}`, async () => {
      const { stderr } = await run([...withStream(value), ours('smtpd-maildir')]);
      assert.match(stderr, /^smtpd-maildir: fatal: [^\n<]+\n$/);
    });
  }

  it('has no priority if stderr was replaced after systemd had set JOURNAL_STREAM', () => {
    const replaced = ['sh', '-c', 'exec 2>&1 >&-; exec "$@"', 'sh', ours('smtpd-maildir')];
    const { stdout } = spawnSync('sh', [...UNDER_JOURNALD.slice(1), ...replaced], { encoding: 'latin1' });
    assert.match(stdout, /^smtpd-maildir: fatal: [^\n<]+\n$/);
  });

  // journald splits what exceeds 48 KiB, and takes a priority from each part; writers to one pipe may split what exceeds
  // PIPE_BUF. What follows could look like another line.
  for (const [what, under] of [
    ['with a priority', UNDER_JOURNALD],
    ['without one', []],
  ] as const) {
    it(`has at most 4096 octets, so that it stays one line: ${what}`, async () => {
      const name = 'a/'.repeat(30_000);
      const { stderr } = await run([...under, ours('smtpd-srs-io'), '-k', '/nowhere', '-d', name, 'cat']);
      assert.match(stderr, /^(?:<3>)?smtpd-srs-io: fatal: usage error: [^\n<]+\.\.\.\n$/);
      assert.equal(stderr.length, 4096);
    });
  }

  it('has the priority of its level: warning, info', async (t) => {
    const keys = writeKeys(t, 'secret\n', 0o644);
    const { stderr } = await run(
      [
        ...UNDER_JOURNALD,
        ...[ours('smtpd-srs-io'), '-v', '2', '-k', keys, '-d', 'ours.example', 'sh', '-c', 'echo 220 ready'],
      ],
      { input: 'QUIT\r\n' },
    );
    assert.deepEqual(stderr.match(/^.*?smtpd-srs-io: \w+/gm), [
      '<6>smtpd-srs-io: info',
      '<4>smtpd-srs-io: warning',
    ]);
  });
});

describe('the log of the server', { concurrency: 2 }, () => {
  for (const workers of ['1', '2']) {
    it(`has the priority of each line, with ${workers} workers`, async (t) => {
      const smtpd = passingSmtpd(t);
      const server = await startServer(['-v', '3', '--workers', workers], [smtpd.path], {
        under: UNDER_JOURNALD,
      });
      t.after(server.close);
      smtpd.remove();
      const client = await connectTo(t, server);
      assert.match(await client.reply(), /^421 /);
      client.end();
      await server.logs(/event=end /);
      server.signal('SIGTERM');
      await server.ended;
      const lines = server.stderr().trimEnd().split('\n');
      const priorities = { warning: 4, info: 6, debug: 7 };
      for (const [level, priority] of Object.entries(priorities)) {
        const start = `smtpd-starttls-server: ${level}: `;
        const of = lines.filter((line) => line.includes(start));
        assert.ok(of.length > 0, `${level}: ${lines.join('\n')}`);
        for (const line of of) assert.ok(line.startsWith(`<${priority}>${start}`), line);
      }
    });
  }

  it('has the lines of a program that it starts, with their priorities', async (t) => {
    const keys = writeKeys(t, 'secret\n', 0o644);
    const rewriting = [ours('smtpd-srs-io'), '-k', keys, '-d', 'ours.example', ...fixture('smtpd-script')];
    const server = await startServer([], rewriting, { under: UNDER_JOURNALD });
    t.after(server.close);
    const client = await connectTo(t, server);
    await client.reply();
    await server.logs(/^<4>smtpd-srs-io: warning: others may read [^\n]*\n/);
    client.end();
  });
});
