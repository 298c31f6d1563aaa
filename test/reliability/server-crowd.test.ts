/**
 * Many sessions, concurrent and sequential, clients that disconnect at any time, and bad clients: nothing of them is
 * left. endurance.ts does the same with larger numbers.
 */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { nullSmtpd } from '../bench/smtpd.ts';
import { until } from '../support/processes.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { inTurns, openInTls, quit, sendMessage } from './crowd.ts';
import { connectAndLeave, PHASES, WAYS } from './departures.ts';
import { openSiege } from './siege.ts';
import { createProbe, formatVitals, smtpdsOf, type Vitals } from './vitals.ts';

const folder = mkdtempSync(join(tmpdir(), 'crowd-'));
const probe = createProbe();
const smtpd = nullSmtpd(folder).command;
after(() => {
  probe.remove();
  rmSync(folder, { recursive: true, force: true });
});

async function start(t: TestContext, ...options: readonly string[]): Promise<RunningServer> {
  const server = await startServer(options, smtpd, { environment: probe.environment });
  t.after(() => server.close());
  return server;
}

/** A session with one message. */
async function deliver(port: number): Promise<string> {
  const client = await openInTls(port);
  const reply = await sendMessage(client, 'Subject: x\r\n\r\nhello');
  await quit(client);
  return reply;
}

/** Measures a server whose clients have disconnected, once it has closed their connections. */
async function measureIdle(server: RunningServer): Promise<Vitals> {
  await until('all smtpds have ended', () => smtpdsOf(server.pid).length === 0, 20_000);
  let last = await probe.look(server);
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 300));
    const now = await probe.look(server);
    if (isSame(now, last)) return now;
    last = now;
  }
}

/** How much the heap may grow from loading and compiling code, in KiB. */
const HEAP_MARGIN = 1536;

/** Waits until nothing is left of the sessions, and asserts that the heap has not grown. */
async function assertAsBefore(t: TestContext, server: RunningServer, before: Vitals): Promise<void> {
  await until('all smtpds have ended', () => smtpdsOf(server.pid).length === 0, 20_000);
  let now = await probe.look(server);
  // The system reports an end with a short delay.
  for (
    const end = Date.now() + 20_000;
    !isSame(now, before) && Date.now() < end;
    now = await probe.look(server)
  ) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  t.diagnostic(`before: ${formatVitals(before)}`);
  t.diagnostic(`after:  ${formatVitals(now)}`);
  assert.equal(now.descriptors, before.descriptors);
  assert.deepEqual(now.resources, before.resources);
  assert.equal(now.zombies, 0);
  assert.ok(
    now.heap < before.heap + HEAP_MARGIN,
    `the heap has grown from ${before.heap} to ${now.heap} KiB`,
  );
}

function isSame(now: Vitals, before: Vitals): boolean {
  const [one, other] = [now, before].map(({ resources }) => JSON.stringify(Object.entries(resources).sort()));
  return now.descriptors === before.descriptors && one === other;
}

describe('many sessions', () => {
  for (const workers of ['1', '2']) {
    it(`100 concurrent and 300 sequential ones with ${workers} process(es) leave nothing behind`, async (t) => {
      const server = await start(t, '--workers', workers);
      await inTurns(100, 4, () => deliver(server.port));
      const before = await measureIdle(server);
      const sessions = await inTurns(100, 8, () => openInTls(server.port));
      const answers = await Promise.all(sessions.map((session) => session.ask('NOOP')));
      assert.ok(answers.every((answer) => answer.startsWith('250')));
      assert.equal((await probe.look(server)).children, 100);
      await Promise.all(sessions.map(quit));
      const replies = await inTurns(300, 4, () => deliver(server.port));
      assert.ok(replies.every((reply) => reply.startsWith('250')));
      assert.equal(server.stderr(), '');
      await assertAsBefore(t, server, before);
    });
  }

  for (const options of [[], ['--fresh'], ['--workers', '2']]) {
    it(`of clients that disconnect at any time leave nothing behind ${options.join(' ')}`, async (t) => {
      const server = await start(t, '-q', '-t', '3', '-T', '3', '-K', '1000', ...options);
      const all = Object.values(PHASES).flatMap((steps) => WAYS.map((way) => ({ steps, way })));
      await inTurns(20, 4, () => deliver(server.port));
      const before = await measureIdle(server);
      await inTurns(3 * all.length, all.length, async (turn) => {
        const { steps, way } = all[turn % all.length] ?? { steps: [], way: 'closes' };
        await connectAndLeave(server.port, steps, way);
      });
      await assertAsBefore(t, server, before);
      assert.match(await deliver(server.port), /^250 /);
    });
  }
});

describe('bad clients', () => {
  it('100 of each kind do not prevent 50 good ones from delivering', async (t) => {
    const server = await start(t, '-q', '-c', '350');
    await deliver(server.port);
    const before = await measureIdle(server);
    const siege = await openSiege(
      server.port,
      ['one octet a second', 'sends nothing', 'stops in the handshake'],
      100,
    );
    t.after(() => siege.end());
    const replies = await inTurns(50, 50, () => deliver(server.port));
    assert.ok(replies.every((reply) => reply.startsWith('250')));
    assert.equal(siege.open(), 300);
    siege.end();
    await assertAsBefore(t, server, before);
  });

  it('that occupy all slots make good ones wait, which deliver when slots are free', async (t) => {
    const server = await start(t, '-v3', '-c', '20');
    const siege = await openSiege(server.port, ['sends nothing', 'stops in the handshake'], 10);
    t.after(() => siege.end());
    const good = inTurns(10, 10, () => deliver(server.port));
    const accepted = (): number => server.stderr().match(/event=accepted/g)?.length ?? 0;
    await until('all were accepted', () => accepted() === 30);
    assert.equal(smtpdsOf(server.pid).length, 20);
    siege.end();
    assert.ok((await good).every((reply) => reply.startsWith('250')));
  });
});
