/** The server with --routes: what is the same in smtp-relay-io is in test/relay/routes.test.ts. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { startFarServer } from '../support/far-server.ts';
import { childrenOf } from '../support/processes.ts';
import { fixture } from '../support/programs.ts';
import { quit, sendMessage } from '../support/relay.ts';
import { certificateForAll, type RunningServer, startServer } from '../support/server.ts';
import { connectTo, type SmtpClient } from '../support/smtp-client.ts';
import { closedPort } from '../support/tcp.ts';

const folder = mkdtempSync(join(tmpdir(), 'server-routes-'));
after(() => rmSync(folder, { recursive: true, force: true }));
let count = 0;

interface Scene {
  readonly server: RunningServer;
  /** Writes the file of routes. */
  write(...lines: readonly string[]): void;
  readonly path: string;
}

async function open(
  t: TestContext,
  lines: readonly string[],
  options: readonly string[] = [],
  environment: NodeJS.ProcessEnv = {},
): Promise<Scene> {
  count += 1;
  const path = join(folder, `routes-${count}`);
  const write = (...text: readonly string[]): void => writeFileSync(path, `${text.join('\n')}\n`);
  write(...lines);
  const words = ['-v', '2', '-l', 'relay.example', ...options, '--routes', path];
  const server = await startServer(words, [], { environment });
  t.after(server.close);
  return { server, write, path };
}

/** Greets, starts TLS and sends EHLO again. */
async function connectTls(t: TestContext, server: RunningServer): Promise<SmtpClient> {
  const client = await connectTo(t, server);
  assert.equal(await client.reply(), '220 relay.example ESMTP');
  assert.equal(await client.ask('EHLO me'), '250-relay.example\n250-PIPELINING\n250-8BITMIME\n250 STARTTLS');
  await client.startTls();
  assert.equal(await client.ask('EHLO me'), '250-relay.example\n250-PIPELINING\n250 8BITMIME');
  return client;
}

const WITH_WORKERS = ['--workers', '2'];

describe('--routes in the server', { concurrency: 3, timeout: 60_000 }, () => {
  for (const [how, options] of [
    ['in one process', []],
    ['with workers', WITH_WORKERS],
    ['with --on-demand', ['--on-demand']],
    ['with --fresh', ['--fresh']],
  ] as const) {
    it(`leads each transaction of a session to its server, ${how}`, async (t) => {
      const [a, b] = [await startFarServer(t, {}), await startFarServer(t, {})];
      const { server } = await open(
        t,
        [`@a.example smtp://127.0.0.1:${a.port}`, `to @b.example smtp://127.0.0.1:${b.port}`],
        options,
        options === WITH_WORKERS ? certificateForAll(t) : {},
      );
      const client = await connectTls(t, server);
      assert.deepEqual([a.connections.length, b.connections.length], [0, 0]);
      for (const recipient of ['x@b.example', 'x@c.example']) {
        for (const command of ['MAIL FROM:<me@a.example>', `RCPT TO:<${recipient}>`, 'DATA', 'Hi.\r\n.']) {
          assert.match(await client.ask(command), /^[23]/, command);
        }
      }
      await quit(client);
      for (const { connections } of [a, b]) {
        assert.deepEqual(
          connections.map(({ delivered }) => delivered),
          ['in cleartext'],
        );
      }
      await server.logs(new RegExp(` event=end .* smtpd=smtp://127\\.0\\.0\\.1:${a.port} status=0 `));
    });
  }

  it('serves a client on the same host without TLS, and a program as a server', async (t) => {
    const { server } = await open(
      t,
      [`* |${fixture('smtpd-script').join(' ')} --on=HELP:environment`],
      ['--no-starttls'],
      {
        CERTFILE: undefined,
        KEYFILE: undefined,
      },
    );
    const client = await connectTo(t, server);
    await client.reply();
    assert.match(await client.ask('MAIL FROM:<me@a.example>'), /^250 /);
    const environment = JSON.parse((await client.ask('HELP')).slice(4));
    assert.deepEqual([environment.TCPREMOTEIP, environment.TCPLOCALHOST], ['127.0.0.1', 'relay.example']);
    assert.equal(environment.SSL_PROTOCOL, undefined);
    const [pid] = childrenOf(server.pid);
    await quit(client);
    await server.logs(new RegExp(` event=end .* smtpd="\\|[^"]*" pid=${pid} status=0 `));
  });

  it('gives a program the variables of the TLS session with --fresh', async (t) => {
    const { server } = await open(
      t,
      [`* |${fixture('smtpd-script').join(' ')} --on=HELP:environment`],
      ['--fresh'],
    );
    const client = await connectTls(t, server);
    await client.ask('MAIL FROM:<me@a.example>');
    const environment = JSON.parse((await client.ask('HELP')).slice(4));
    assert.equal(environment.SSL_PROTOCOL, 'TLSv1.3');
    assert.equal(environment.KEYFILE, undefined);
  });

  it('counts attempts by route', async (t) => {
    const far = await startFarServer(t, {});
    const metrics = await closedPort();
    const refused = `smtp://127.0.0.1:${await closedPort()}`;
    const { server } = await open(
      t,
      [`@a.example smtp://127.0.0.1:${far.port}`, `@b.example ${refused}`, '* |false'],
      ['--metrics', `127.0.0.1:${metrics}`],
    );
    const client = await connectTo(t, server);
    await client.reply();
    for (const [sender, code] of [
      ['me@b.example', '451'],
      ['me@c.example', '451'],
      ['me@a.example', '250'],
    ] as const) {
      assert.equal((await client.ask(`MAIL FROM:<${sender}>`)).slice(0, 3), code);
    }
    const text = await (await fetch(`http://127.0.0.1:${metrics}/metrics`)).text();
    for (const [url, result] of [
      [`smtp://127.0.0.1:${far.port}`, 'reached'],
      [refused, 'no-connection'],
      ['|false', 'program-failed'],
    ]) {
      const line = `smtpd_starttls_relay_attempts_total{url="${url}",result="${result}"} 1\n`;
      assert.ok(text.includes(line), `${line}${text}`);
    }
    await server.logs(/event=relay .*text="unable to relay to \|false: false failed: exit status 1"/);
  });

  for (const options of [[], WITH_WORKERS]) {
    it(`reads the file again on SIGHUP, and keeps the routes if it is wrong ${options.join(' ')}`, async (t) => {
      const [old, next] = [await startFarServer(t, {}), await startFarServer(t, {})];
      const { server, write, path } = await open(
        t,
        [`* smtp://127.0.0.1:${old.port}`],
        options,
        options === WITH_WORKERS ? certificateForAll(t) : {},
      );
      const session = await connectTo(t, server);
      await session.reply();
      write(`* smtp://127.0.0.1:${next.port}`, 'wrong');
      server.signal('SIGHUP');
      await server.logs(new RegExp(`warning: .*${path}:2: expected a pattern`));
      assert.equal(await sendMessage(await connectTo(t, server)), undefined);
      assert.deepEqual([old.connections.length, next.connections.length], [1, 0]);
      write(`* smtp://127.0.0.1:${next.port}`);
      server.signal('SIGHUP');
      await server.logs(/loaded new keys, certificates, credentials and routes/);
      // A worker may have them a little later.
      while (next.connections.length === 0) {
        assert.match(await session.ask('MAIL FROM:<a@b>'), /^250 /);
        assert.match(await session.ask('RSET'), /^250 /);
      }
    });
  }
});

describe('--routes that cannot be used', { concurrency: 3, timeout: 60_000 }, () => {
  const path = join(folder, 'wrong');
  writeFileSync(path, '* ftp://a.example\n');
  for (const [words, smtpd, message] of [
    [['--routes', path], [], /fatal: .*wrong:1: usage error: unknown scheme "ftp"/],
    [['--routes', '/nowhere'], [], /fatal: unable to read --routes \/nowhere: ENOENT/],
    [['--routes', path, '--to', 'smtp://a.example'], [], /--routes and --to contradict each other/],
    [['--routes', path], ['smtpd'], /unexpected argument with --routes: smtpd/],
    [['--greeting', 'a'], ['true'], /no effect without --routes/],
    [['--resolver', '127.0.0.1'], ['true'], /--resolver requires --to with a URL, or --routes/],
  ] as const) {
    it(`${words.join(' ')} ${smtpd.join(' ')}`, async () => {
      await assert.rejects(startServer(words, smtpd), message);
    });
  }
});
