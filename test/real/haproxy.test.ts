/** The server behind HAProxy, with the configuration in docs/examples. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { type Served, watch } from '../support/chain.ts';
import { until } from '../support/processes.ts';
import { missing, ours, ROOT } from '../support/programs.ts';
import { type Outcome, run } from '../support/real.ts';
import { makeFolder } from '../support/real-chain.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { connectSmtp } from '../support/smtp-client.ts';
import { closedPort } from '../support/tcp.ts';

const EXAMPLE = readFileSync(join(ROOT, 'docs/examples/haproxy/haproxy.cfg'), 'utf8');
const skip = missing('haproxy', 'swaks', 'openssl');
/** HAProxy itself connects from 127.0.0.1. */
const CLIENT = '127.0.0.5';

/** HAProxy, and two machines behind it. */
interface Scene {
  readonly haproxy: Omit<Served, 'pid'>;
  readonly port: { readonly smtp: number; readonly submissions: number };
  readonly servers: readonly RunningServer[];
  /** The delivered messages. */
  mails(): string[];
}

async function open(t: TestContext): Promise<Scene> {
  const folder = makeFolder(t);
  const keys = join(folder, 'ticket-keys');
  writeFileSync(keys, `${randomBytes(48).toString('base64')}\n`);
  const maildir = join(folder, 'Maildir');
  const start = async (...options: string[]): Promise<RunningServer> => {
    const common = ['-v2', '--proxy-protocol', '127.0.0.1', '--ticket-keys', keys, '--fresh'];
    const server = await startServer([...common, ...options], [ours('smtpd-maildir'), maildir]);
    t.after(server.close);
    return server;
  };
  const smtp = [await start(), await start()] as const;
  const submissions = [await start('--implicit-tls'), await start('--implicit-tls')] as const;

  const port = { smtp: await closedPort(), submissions: await closedPort() };
  const configuration = replace(EXAMPLE, [
    [':::25 v4v6', `127.0.0.1:${port.smtp}`],
    [':::465 v4v6', `127.0.0.1:${port.submissions}`],
    ['192.0.2.11:2525', `127.0.0.1:${smtp[0].port}`],
    ['192.0.2.12:2525', `127.0.0.1:${smtp[1].port}`],
    ['192.0.2.11:4650', `127.0.0.1:${submissions[0].port}`],
    ['192.0.2.12:4650', `127.0.0.1:${submissions[1].port}`],
    ['inter 10s', 'inter 200ms'],
  ]);
  const file = join(folder, 'haproxy.cfg');
  writeFileSync(file, configuration);
  const haproxy = await startHaproxy(t, file, port.submissions);
  return {
    haproxy,
    port,
    servers: [...smtp, ...submissions],
    mails: () =>
      readdirSync(join(maildir, 'new')).map((name) => readFileSync(join(maildir, 'new', name), 'latin1')),
  };
}

/** Starts HAProxy, until the end of the test, and waits until it listens. */
async function startHaproxy(t: TestContext, file: string, port: number): Promise<Omit<Served, 'pid'>> {
  const child = spawn('haproxy', ['-db', '-f', file], { stdio: ['ignore', 'ignore', 'pipe'] });
  const haproxy = watch(child);
  t.after(async () => {
    child.kill('SIGKILL');
    await haproxy.ended;
  });
  await until('HAProxy listens', () => child.exitCode !== null || isListening(port));
  assert.equal(child.exitCode, null, haproxy.stderr());
  assert.ok(!/warning/i.test(haproxy.stderr()), haproxy.stderr());
  return haproxy;
}

/** Applies replacements to the example; each text must occur in it, so that the example itself is tested. */
function replace(text: string, changes: readonly (readonly [string, string])[]): string {
  return changes.reduce((changed, [from, to]) => {
    assert.ok(changed.includes(from), from);
    return changed.replaceAll(from, to);
  }, text);
}

/** Reads the socket table of the system: the servers would report a connection. */
function isListening(port: number): boolean {
  const address = `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')} 00000000:0000 0A`;
  return readFileSync('/proc/net/tcp', 'latin1').includes(address);
}

function swaks(port: number, ...more: string[]): Promise<Outcome> {
  const where = ['--server', `127.0.0.1:${port}`, '--local-interface', CLIENT];
  const envelope = ['--from', 'alice@example.org', '--to', 'bob@example.net', '--helo', 'client.example'];
  return run(['swaks', ...where, ...envelope, '--body', 'hello', ...more]);
}

describe('behind HAProxy', { concurrency: 2, timeout: 60_000, skip }, () => {
  for (const [how, options, port, protocol] of [
    ['cleartext, by version 2', [], 'smtp', 'ESMTP'],
    ['STARTTLS, by version 2', ['--tls'], 'smtp', 'ESMTPS'],
    ['TLS, by version 1', ['--tlsc'], 'submissions', 'ESMTPS'],
  ] as const) {
    it(`a message arrives in ${how}, with the address of its client`, async (t) => {
      const scene = await open(t);
      const { status, stdout, stderr } = await swaks(scene.port[port], ...options);
      assert.equal(status, 0, `${stdout}${stderr}${scene.haproxy.stderr()}`);
      const [mail = ''] = scene.mails();
      assert.match(mail, new RegExp(`^Received: from client\\.example\\n {2}\\(\\[${CLIENT}\\]\\)\\n`, 'm'));
      assert.match(mail, new RegExp(`^ {2}with ${protocol}(?: \\(TLSv1\\.3 |$)`, 'm'));
      const end = new RegExp(`event=end .*remote=${CLIENT}:\\d+ proxy=127\\.0\\.0\\.1 `);
      await until('it is in a log', () => scene.servers.some((server) => end.test(server.stderr())));
    });
  }

  it('direct connections are closed', async (t) => {
    const { servers } = await open(t);
    const [server] = servers;
    const { status, stdout } = await swaks(server?.port ?? 0);
    assert.notEqual(status, 0);
    assert.ok(!stdout.includes('<-  220'));
    await server?.logs(new RegExp(`warning: event=refused id=\\S+ remote=${CLIENT}:\\d+ why=untrusted\n`));
  });

  it('the other machine takes over when one stops, and resumes its TLS session', async (t) => {
    const { port, servers, haproxy, mails } = await open(t);
    const first = await connectSmtp(port.smtp);
    await first.reply();
    await first.startTls();
    const session = new Promise<Buffer>((resolve) => first.tls().once('session', resolve));
    assert.match(await first.ask('NOOP'), /^250 /);
    const ticket = await session;
    assert.match(await first.ask('QUIT'), /^221 /);
    first.end();
    await first.rest();
    const [one, two] = servers;
    await until('it is in a log', () => /event=tls/.test(`${one?.stderr()}${two?.stderr()}`));
    const serving = /event=tls/.test(one?.stderr() ?? '') ? one : two;
    serving?.signal('SIGTERM');
    assert.equal((await serving?.ended)?.code, 0);
    await haproxy.logs(/Server smtp\/(?:one|two) is DOWN/);
    const second = await connectSmtp(port.smtp);
    t.after(second.destroy);
    await second.reply();
    await second.startTls({ session: ticket });
    assert.match(await second.ask('NOOP'), /^250 /);
    assert.equal(second.tls().isSessionReused(), true);
    assert.equal((await swaks(port.smtp, '--tls')).status, 0);
    assert.equal(mails().length, 1);
  });

  it('it parses the header of --send-proxy, for cleartext and TLS', async (t) => {
    const folder = makeFolder(t);
    const maildir = join(folder, 'Maildir');
    const smtpd = await startServer([], [ours('smtpd-maildir'), maildir]);
    t.after(smtpd.close);
    const port = await closedPort();
    const file = join(folder, 'haproxy.cfg');
    const timeouts = ['connect', 'client', 'server'].map((name) => `  timeout ${name} 30s`);
    const log = ['  log stderr format raw daemon', '  log-format "%ci:%cp"'];
    const listen = [`  bind 127.0.0.1:${port} accept-proxy`, `  server smtpd 127.0.0.1:${smtpd.port}`];
    writeFileSync(file, ['listen backend', '  mode tcp', ...timeouts, ...log, ...listen, ''].join('\n'));
    const haproxy = await startHaproxy(t, file, port);
    for (const [version, options] of [
      ['v1', []],
      ['v2', ['--fresh']],
      ['v2', ['--implicit-tls']],
    ] as const) {
      const server = await startServer(
        ['--to', `127.0.0.1:${port}`, '--send-proxy', version, ...options],
        [],
      );
      t.after(server.close);
      const client = await connectSmtp(server.port);
      t.after(client.destroy);
      const socket = client.socket();
      assert.ok('localPort' in socket);
      const { localPort } = socket;
      if (options[0] === '--implicit-tls') await client.shakeHands();
      assert.match(await client.reply(), /^220 /);
      if (options[0] === '--fresh') await client.startTls();
      assert.match(await client.ask('NOOP'), /^250 /);
      assert.match(await client.ask('QUIT'), /^221 /);
      client.end();
      await haproxy.logs(new RegExp(`^127\\.0\\.0\\.1:${localPort}$`, 'm'));
    }
  });
});
