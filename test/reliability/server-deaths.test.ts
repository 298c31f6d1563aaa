/** An smtpd that is killed, sends nothing, or cannot be started: its client gets 421, and the server continues. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { descriptorsOf, until } from '../support/processes.ts';
import { fixture, missing } from '../support/programs.ts';
import { passingSmtpd, type RunningServer, type ServerSetup, startServer } from '../support/server.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';
import { smtpdsOf } from './vitals.ts';

/** Starts a server that ends with the test. */
async function start(
  t: TestContext,
  smtpd: readonly string[],
  options: readonly string[] = [],
  setup: ServerSetup = {},
): Promise<RunningServer> {
  const server = await startServer(options, smtpd, setup);
  t.after(() => server.close());
  return server;
}

/** Connects a client that disconnects with the test. */
async function connect(t: TestContext, server: RunningServer): Promise<SmtpClient> {
  const client = await connectSmtp(server.port);
  t.after(() => client.destroy());
  return client;
}

/**
 * Asserts that the server serves a client from the greeting to the end, and that only the smtpds of connected
 * clients are left.
 */
async function assertServes(t: TestContext, server: RunningServer, others = 0): Promise<void> {
  const client = await connect(t, server);
  assert.match(await client.reply(), /^220 /);
  await client.startTls();
  assert.match(await client.ask('NOOP'), /^250 /);
  client.sendLines('QUIT');
  assert.match(await client.rest(), /^221 /);
  client.end();
  await until('no smtpd is left', () => smtpdsOf(server.pid).length === others, 20_000);
}

/** A folder for the test. */
function makeFolder(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'deaths-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** An smtpd-script that has these options when it is first started, and none after that. */
function badOnce(t: TestContext, ...options: readonly string[]): string[] {
  const choice = 'mark=$1; shift; mkdir "$mark" 2>/dev/null && exec "$@"; exec "$1" "$2"';
  return ['sh', '-c', choice, 'sh', join(makeFolder(t), 'mark'), ...fixture('smtpd-script', ...options)];
}

/** The lowest unused descriptor number. */
function lowestUnused(pid: number): number {
  const taken = descriptorsOf(pid);
  let number = 0;
  while (taken.has(number)) number += 1;
  return number;
}

/** Sets how many descriptors a process may have from now on. */
function limitDescriptors(pid: number, count: number): void {
  execFileSync('prlimit', ['--pid', String(pid), `--nofile=${count}:`]);
}

/** The only smtpd of a server. */
async function smtpdOf(server: RunningServer): Promise<number> {
  let pids: number[] = [];
  await until('there is one smtpd', () => {
    pids = smtpdsOf(server.pid);
    return pids.length === 1;
  });
  return pids[0] ?? 0;
}

describe('an smtpd that is killed', { concurrency: 2 }, () => {
  for (const [where, bad, expected] of [
    ['before its greeting', 'die SIGKILL', /^421 4\.3\.0 .*\r\n$/],
    ['in a line of its greeting', 'write 220-half; die SIGKILL', /^(?:220-half\r\n)?421 4\.3\.0 .*\r\n$/],
    ['between two lines of its greeting', 'line 220-one; die SIGKILL', /^220-one\r\n421 4\.3\.0 .*\r\n$/],
  ] as const) {
    it(`${where}: the client receives 421`, async (t) => {
      const server = await start(t, badOnce(t, `--start=${bad}`));
      const client = await connect(t, server);
      assert.match(await client.rest(), expected);
      await server.logs(/killed by SIGKILL/);
      await assertServes(t, server);
    });
  }

  for (const [where, bad, expected] of [
    ['in a line of', 'write 250-half; die SIGKILL', /^(?:250-half\r\n)?421 4\.3\.0 .*\r\n$/],
    ['between two lines of', 'line 250-one; die SIGKILL', /^250-one\r\n421 4\.3\.0 .*\r\n$/],
    ['before', 'die SIGKILL', /^421 4\.3\.0 .*\r\n$/],
  ] as const) {
    it(`${where} its reply to EHLO: the client receives 421`, async (t) => {
      const server = await start(t, badOnce(t, `--on=EHLO:${bad}`));
      const client = await connect(t, server);
      await client.reply();
      client.sendLines('EHLO client.example');
      assert.match(await client.rest(), expected);
      await server.logs(/killed by SIGKILL/);
      await assertServes(t, server);
    });
  }

  it('while TLS is started: the client receives 421 in TLS', async (t) => {
    const server = await start(t, fixture('smtpd-script'));
    const client = await connect(t, server);
    await client.reply();
    assert.match(await client.ask('STARTTLS'), /^220 /);
    process.kill(await smtpdOf(server), 'SIGKILL');
    await until('it is reaped', () => smtpdsOf(server.pid).length === 0);
    await client.shakeHands();
    assert.match(await client.rest(), /^421 4\.3\.0 [^\n]*\r\n$/);
    await server.logs(/killed by SIGKILL/);
    await assertServes(t, server);
  });

  for (const tls of [false, true]) {
    it(`in a message, ${tls ? 'in TLS' : 'in cleartext'}: the client receives 421, and not 250`, async (t) => {
      const server = await start(t, fixture('smtpd-script'));
      const client = await connect(t, server);
      await client.reply();
      if (tls) await client.startTls();
      assert.match(await client.ask('MAIL FROM:<a@b>'), /^250 /);
      assert.match(await client.ask('RCPT TO:<c@d>'), /^250 /);
      assert.match(await client.ask('DATA'), /^354 /);
      client.sendLines('Subject: x', '', 'a message that is not');
      process.kill(await smtpdOf(server), 'SIGKILL');
      assert.match(await client.rest(), /^421 4\.3\.0 [^\n]*\r\n$/);
      await server.logs(/killed by SIGKILL/);
      await assertServes(t, server);
    });
  }

  it('in the middle of a line in TLS: the connection is closed, and nothing is added to that line', async (t) => {
    const server = await start(t, fixture('smtpd-script', '--on=HELP:write 214 half a li; die SIGKILL'));
    const client = await connect(t, server);
    await client.reply();
    await client.startTls();
    client.sendLines('HELP');
    assert.equal(await client.rest(), '214 half a li');
    await assertServes(t, server);
  });
});

describe('an smtpd that never answers', { concurrency: 4 }, () => {
  for (const [what, options, command] of [
    ['does not greet', ['--start=await-nothing'], ''],
    ['does not answer EHLO', ['--on=EHLO:await-nothing'], 'EHLO client.example\r\n'],
    ['does not answer the RSET of STARTTLS', ['--on=RSET:await-nothing'], 'STARTTLS\r\n'],
    ['breaks off in a line', ['--on=EHLO:write 250-half a li; await-nothing'], 'EHLO client.example\r\n'],
  ] as const) {
    it(`${what}: the client receives 421, and smtpd is terminated`, async (t) => {
      const server = await start(t, badOnce(t, ...options), ['-t', '3']);
      const client = await connect(t, server);
      if (command !== '') await client.reply();
      client.send(command);
      assert.match(await client.rest(), /^421 4\.4\.2 .*\r\n$/);
      client.end();
      // The smtpd ignores the end of its input: it ends on SIGTERM, after five seconds.
      await assertServes(t, server);
    });
  }
});

describe('an smtpd that cannot be started', { concurrency: 2 }, () => {
  it('because it is missing at first: the client receives 421, a later one is served', async (t) => {
    // The server refuses to start without it.
    const { path: file, remove } = passingSmtpd(t);
    const server = await start(t, [file]);
    remove();
    for (let count = 0; count < 3; count++) {
      const client = await connect(t, server);
      assert.match(await client.rest(), /^421 4\.3\.0 .*\r\n$/);
    }
    await server.logs(/cannot run [^ ]*smtpd: ENOENT/);
    writeFileSync(file, 'not for running');
    const client = await connect(t, server);
    assert.match(await client.rest(), /^421 4\.3\.0 .*\r\n$/);
    await server.logs(/cannot run [^ ]*smtpd: EACCES/);
    writeFileSync(file, `#!/bin/sh\nexec ${fixture('smtpd-script').join(' ')}\n`);
    chmodSync(file, 0o755);
    await assertServes(t, server);
  });

  it('at the process limit (EAGAIN): the client receives 421, and other sessions continue', {
    skip: process.getuid?.() === 0 ? missing('prlimit') : 'not root',
  }, async (t) => {
    // The limit counts all threads of a user: use a user without other processes.
    const user = 61_000 + (process.pid % 1000);
    const script = 'printf "220 sh\\r\\n"; while read -r line; do printf "250 ok\\r\\n"; done';
    const server = await start(t, ['sh', '-c', script], ['-u', String(user), '-g', String(user)], {
      under: ['prlimit', '--nproc=60'],
    });
    const served: SmtpClient[] = [];
    let refusal = '';
    for (let count = 0; refusal === ''; count++) {
      assert.ok(count < 60, 'there is no limit');
      const client = await connect(t, server);
      const reply = await client.reply();
      if (reply.startsWith('220')) served.push(client);
      else refusal = reply;
    }
    assert.match(refusal, /^421 4\.3\.0 /);
    await server.logs(/cannot run sh: EAGAIN \(too many processes: [^\n]+\)/);
    assert.ok(served.length > 0);
    for (const client of served) assert.match(await client.ask('NOOP'), /^250 /);
    await served[0]?.startTls();
    served.pop()?.destroy();
    await until('there is one smtpd less', () => smtpdsOf(server.pid).length === served.length);
    const next = await connect(t, server);
    assert.match(await next.reply(), /^220 /);
  });

  it('at the descriptor limit (EMFILE): the client receives 421, and other sessions continue', {
    skip: missing('prlimit'),
  }, async (t) => {
    const server = await start(t, fixture('smtpd-script'));
    const early = await connect(t, server);
    await early.reply();
    // Lowered while the server runs: it checked the limit when it started.
    const used = descriptorsOf(server.pid).size;
    limitDescriptors(server.pid, used + 2);
    const client = await connect(t, server);
    assert.match(await client.rest(), /^421 4\.3\.0 .*\r\n$/);
    client.end();
    await server.logs(/cannot run [^ ]*node: EMFILE \(too many open descriptors: [^\n]+\)/);
    await early.startTls();
    assert.match(await early.ask('NOOP'), /^250 /);
    limitDescriptors(server.pid, used + 100);
    await until('the refused connection is closed', () => descriptorsOf(server.pid).size <= used);
    await assertServes(t, server, 1);
  });

  it('because its connection cannot be accepted (EMFILE): it is closed, other sessions continue', {
    skip: missing('prlimit'),
  }, async (t) => {
    const server = await start(t, fixture('smtpd-script'));
    const early = await connect(t, server);
    await early.reply();
    // The limit applies to descriptor numbers: every number below it must be in use.
    limitDescriptors(server.pid, lowestUnused(server.pid));
    const client = await connect(t, server);
    assert.equal(await client.rest().catch(() => ''), '');
    await early.startTls();
    assert.match(await early.ask('NOOP'), /^250 /);
    limitDescriptors(server.pid, 1000);
    await assertServes(t, server, 1);
  });
});
