/** A compromised worker, and what it cannot make the primary do. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { childrenOf, descriptorsOf, statusOf, until } from '../support/processes.ts';
import { fixture, missing } from '../support/programs.ts';
import { certificateForAll, type RunningServer, startServer } from '../support/server.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';
import { DEADLINE, within } from '../support/within.ts';

const SMTPD = ['sh', '-c', 'printf "220 $PPID\\r\\n"; while read -r line; do printf "250 yes\\r\\n"; done'];
const IS_ROOT = process.getuid?.() === 0;

/** Starts a server with a worker that does this at SIGUSR2. */
async function start(
  t: TestContext,
  [action, argument]: readonly [string, unknown],
  ...options: string[]
): Promise<RunningServer> {
  const [, program = ''] = fixture('hostile-worker');
  const server = await startServer(['--workers', '2', ...options], SMTPD, {
    environment: {
      ...certificateForAll(t),
      NODE_OPTIONS: `--require=${program}`,
      HOSTILE_ACTION: action,
      HOSTILE_ARGUMENT: JSON.stringify(argument),
    },
  });
  t.after(() => server.close());
  return server;
}

/** Makes a worker do it. @returns the worker. */
function take(server: RunningServer): number {
  const [worker = 0] = childrenOf(server.pid);
  process.kill(worker, 'SIGUSR2');
  return worker;
}

/** Settles when stderr matches. */
function logs(server: RunningServer, pattern: RegExp): Promise<void> {
  return within(DEADLINE, () => `${pattern} in ${server.stderr()}`, server.logs(pattern));
}

/** Connects and is greeted. */
async function connectGreeted(t: TestContext, port: number): Promise<SmtpClient> {
  const client = await connectSmtp(port);
  t.after(() => client.destroy());
  assert.match(await within(DEADLINE, 'greeting', client.reply()), /^220 /);
  return client;
}

/** The sockets that a process has open. */
function socketsOf(pid: number): readonly string[] {
  return [...descriptorsOf(pid).values()].filter((target) => target.startsWith('socket:')).toSorted();
}

/** A folder that only root can read. */
function makeFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'hostile-'));
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

describe('a hostile worker that listens', { concurrency: 2 }, () => {
  it('gets no port from the primary', async (t) => {
    const server = await start(t, ['listen', { host: '127.0.0.1', port: 0 }]);
    const before = socketsOf(server.pid);
    take(server);
    await logs(server, /hostile: listening\n/);
    assert.deepEqual(socketsOf(server.pid), before);
  });

  it('gets no Unix socket where only root may create one', {
    skip: IS_ROOT ? false : 'needs root',
  }, async (t) => {
    const path = join(makeFolder(t), 'socket');
    const server = await start(t, ['listen', { path }], '-u', '65534', '-g', '65534');
    take(server);
    await logs(server, /hostile: .*\n/);
    assert.match(server.stderr(), /hostile: EACCES\n/);
    assert.equal(existsSync(path), false);
  });

  it('gets no port below 1024 where only root may listen', {
    skip: IS_ROOT ? false : 'needs root',
  }, async (t) => {
    const server = await start(t, ['listen', { host: '127.6.6.6', port: 89 }], '-u', '65534', '-g', '65534');
    take(server);
    await logs(server, /hostile: .*\n/);
    assert.match(server.stderr(), /hostile: EACCES\n/);
  });
});

describe('a hostile worker that sends', { concurrency: 2 }, () => {
  it('one number for two connections gets only one slot', async (t) => {
    const slot = { type: 'slot', slot: 1e6, address: '192.0.2.1' };
    const server = await start(t, ['send', [slot, slot, slot]], '-c', '3', '-t', '20');
    const worker = take(server);
    await logs(server, /hostile: sent\n/);
    // Its answer follows these messages.
    server.signal('SIGUSR1');
    await logs(server, /event=counters /);
    process.kill(worker, 'SIGKILL');
    await logs(server, /event=worker-ended/);
    await Promise.all([
      connectGreeted(t, server.port),
      connectGreeted(t, server.port),
      connectGreeted(t, server.port),
    ]);
  });

  it('invalid messages is killed at the tenth, and replaced', async (t) => {
    const messages = [
      'text',
      null,
      { type: 'unknown' },
      { type: 'slot', slot: '1' },
      { type: 'slot', slot: 1.5 },
      { type: 'slot', slot: 1, address: 'x'.repeat(65) },
      { type: 'claim', slot: 1 },
      { type: 'collected', metrics: {} },
      { type: 'ready', listeners: [] },
      { type: 'ready', listeners: [{ port: 1e9, name: 'one' }] },
      { type: 'unknown, and not answered any more' },
    ];
    const server = await start(t, ['send', messages], '-v2');
    const worker = take(server);
    const text = 'sent too many invalid messages';
    await logs(server, new RegExp(`event=worker-killed worker=${worker} text="${text}"\n`));
    await logs(server, new RegExp(`event=worker-ended worker=${worker} end=SIGKILL\n`));
    const warning = `warning: event=worker-message worker=${worker} text="invalid message"\n`;
    assert.equal(server.stderr().split(warning).length - 1, 10);
    await isReplaced(server);
    await connectGreeted(t, server.port);
  });

  it('without reading cannot make answers accumulate', async (t) => {
    const text = '{"type":"slot","slot":1%,"address":"192.0.2.1"}\n';
    const server = await start(t, ['flood', { text, times: 1_000_000 }]);
    const worker = take(server);
    await logs(server, /hostile: .*\n/);
    // Otherwise it could not have sent everything.
    assert.match(server.stderr(), /hostile: stalled\n/);
    process.kill(worker, 'SIGKILL');
    await logs(server, /event=worker-ended/);
    await connectGreeted(t, server.port);
  });

  it('a line without an end does not fill the memory of the primary', async (t) => {
    const [times, kib] = [2048, 64];
    // A busy machine may keep the primary from reading for a second.
    const server = await start(t, ['flood', { text: 'x'.repeat(kib * 1024), times, seconds: 30 }]);
    const before = memoryOf(server.pid);
    const worker = take(server);
    await logs(server, /hostile: .*\n/);
    assert.match(server.stderr(), /hostile: flooded\n/);
    const grown = memoryOf(server.pid) - before;
    assert.ok(grown < (times * kib) / 2, `${grown} KiB more`);
    process.kill(worker, 'SIGKILL');
    await logs(server, /event=worker-ended/);
    await connectGreeted(t, server.port);
  });

  it('descriptors cannot make the primary receive them', { skip: missing('python3') }, async (t) => {
    const server = await start(t, ['pass', undefined]);
    const before = descriptorsOf(server.pid);
    take(server);
    await logs(server, /hostile: passed 0\n/);
    await logs(server, /event=worker-message/);
    assert.deepEqual(descriptorsOf(server.pid), before);
  });
});

describe('a hostile worker that closes the channel', () => {
  it('is killed and replaced', { skip: missing('python3') }, async (t) => {
    const server = await start(t, ['hangUp', undefined], '-v2');
    const worker = take(server);
    await logs(server, new RegExp(`worker-killed worker=${worker} text="closed the channel"\n`));
    await isReplaced(server);
    await connectGreeted(t, server.port);
  });
});

/** Settles when a third worker is ready. */
async function isReplaced(server: RunningServer): Promise<void> {
  await until('a third worker is ready', () => server.stderr().split('event=worker-ready ').length > 3);
}

/** The memory of a process, in KiB. */
function memoryOf(pid: number): number {
  return Number.parseInt(statusOf(pid, 'VmRSS'), 10);
}
