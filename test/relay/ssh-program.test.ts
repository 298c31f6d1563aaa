/** smtp-relay-io with ssh:// and a program in place of ssh, which does what ssh does seldom. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { childrenOf, isGone, until } from '../support/processes.ts';
import { fixture } from '../support/programs.ts';
import { type Relay, startRelay } from '../support/relay.ts';

/** Starts a relay by a program with these options; see smtpd-script. */
function start(t: TestContext, ...options: string[]): Relay {
  return startWith(t, () => ['ssh://mx.example'], options);
}

/** @param words gives the last words of the command line; `folder` is for their files. */
function startWith(t: TestContext, words: (folder: string) => string[], options: string[]): Relay {
  const folder = mkdtempSync(join(tmpdir(), 'relay-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const program = join(folder, 'ssh');
  const command = [...fixture('smtpd-script'), ...options].map((word) => `'${word}'`).join(' ');
  writeFileSync(program, `#!/bin/sh\nexec ${command}\n`, { mode: 0o755 });
  return startRelay(t, ['--ssh', program, ...words(folder)], { XDG_RUNTIME_DIR: folder });
}

/** The process id of the program, once it runs. */
async function programOf(t: TestContext, relay: Relay): Promise<number> {
  const { pid } = relay.child;
  assert.ok(pid !== undefined);
  await until('the program runs', () => childrenOf(pid).length === 1);
  const [program] = childrenOf(pid);
  assert.ok(program !== undefined);
  t.after(() => isGone(program) || process.kill(program, 'SIGKILL'));
  return program;
}

describe('smtp-relay-io with a program in place of ssh', { concurrency: 3 }, () => {
  it('passes on what it sends before it exits, also when the client sends nothing', async (t) => {
    const relay = start(t, '--signal=SIGUSR2:line 421 4.4.2 idle;exit 0');
    await relay.reply();
    assert.match(await relay.ask('EHLO client.example'), /^250-/);
    const program = await programOf(t, relay);
    process.kill(program, 'SIGUSR2');
    await until('it is gone', () => isGone(program));
    assert.equal(await relay.ask('MAIL FROM:<a@client.example>'), '421 4.4.2 idle');
    relay.end();
    assert.equal(await relay.status, 0);
  });

  const STUBBORN = ['--signal=SIGTERM:', '--end=await-nothing', '--on=QUIT:'];

  it('leaves none behind at SIGTERM that ignores it and has sent nothing', async (t) => {
    const record = join(mkdtempSync(join(tmpdir(), 'relay-')), 'record');
    t.after(() => rmSync(dirname(record), { recursive: true, force: true }));
    const relay = start(t, ...STUBBORN, '--start=await-signal', `--record=${record}`);
    await relay.reply();
    relay.send('EHLO client.example');
    await until('it ignores SIGTERM', () => existsSync(`${record}.waits`));
    await checkEnd(relay, await programOf(t, relay));
  });

  it('leaves none behind at SIGTERM that ignores it and has sent nothing, by a route', async (t) => {
    const record = join(mkdtempSync(join(tmpdir(), 'relay-')), 'record');
    t.after(() => rmSync(dirname(record), { recursive: true, force: true }));
    const routes = (folder: string): string[] => {
      writeFileSync(join(folder, 'routes'), '* ssh://mx.example\n');
      return ['--routes', join(folder, 'routes')];
    };
    const relay = startWith(t, routes, [...STUBBORN, '--start=await-signal', `--record=${record}`]);
    await relay.reply();
    await relay.ask('EHLO client.example');
    relay.send('MAIL FROM:<a@client.example>');
    await until('it ignores SIGTERM', () => existsSync(`${record}.waits`));
    const program = await programOf(t, relay);
    relay.child.kill('SIGTERM');
    assert.equal(await relay.status, 111);
    assert.ok(isGone(program));
  });

  it('leaves none behind at SIGTERM that ignores it and awaits a command', async (t) => {
    const relay = start(t, ...STUBBORN);
    await relay.reply();
    assert.match(await relay.ask('EHLO client.example'), /^250-/);
    await checkEnd(relay, await programOf(t, relay));
  });
});

async function checkEnd(relay: Relay, program: number): Promise<void> {
  relay.child.kill('SIGTERM');
  assert.match(await relay.reply(), /^421 4\.3\.2 /);
  relay.end();
  assert.equal(await relay.status, 111);
  assert.ok(isGone(program));
}
