/** --error-limit: after too many refused commands a client is disconnected and its input not read. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { serve } from '../support/chain.ts';
import { fixture, ours } from '../support/programs.ts';
import { type RunningServer, serverEnvironment, startServer } from '../support/server.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';

/** An smtpd that refuses XYZZY and accepts everything else. */
const SMTPD = [
  'sh',
  '-c',
  `printf "220 ready\\r\\n"
  while read -r line; do
    case $line in
      XYZZY*) printf "502 what?\\r\\n";;
      *) printf "250 yes\\r\\n";;
    esac
  done`,
];
const REFUSED = '500 5.5.2 Empty line, send a command or QUIT\r\n';
const LAST = '421 4.7.0 Too many refused commands, closing connection\r\n';

async function start(t: TestContext, ...options: string[]): Promise<RunningServer> {
  const server = await startServer(options, SMTPD);
  t.after(server.close);
  return server;
}

async function connectGreeted(t: TestContext, port: number): Promise<SmtpClient> {
  const client = await connectSmtp(port);
  t.after(client.destroy);
  assert.equal(await client.reply(), '220 ready');
  return client;
}

/** Everything received until the server closes the connection, which it must do by itself. */
function untilClosed(client: SmtpClient): Promise<string> {
  const late = pause(20_000, 'the connection is still open', { ref: false });
  return Promise.race([client.rest(), late]);
}

describe('an endless stream of empty lines', { concurrency: 3, timeout: 60_000 }, () => {
  const LINES = Buffer.alloc(200_000, '\n');
  const ANSWER = REFUSED.repeat(100) + LAST;

  for (const workers of ['1', '2']) {
    it(`gets a hundred replies of smtpd-starttls-server --workers ${workers}, one line and a count`, async (t) => {
      const server = await start(t, '--workers', workers);
      const client = await connectGreeted(t, server.port);
      client.send(LINES);
      assert.equal(await untilClosed(client), ANSWER);
      client.destroy();
      server.signal('SIGUSR1');
      await server.logs(/ close=1 error_limit_reached=1 /);
      const [line = '', counters = '', ...others] = server.stderr().split('\n');
      assert.match(
        line,
        /^smtpd-starttls-server: warning: event=error-limit id=\S+ remote=127\.0\.0\.1:\d+$/,
      );
      assert.match(counters, / event=counters /);
      assert.deepEqual(others, ['']);
    });
  }

  for (const [name, ...chain] of [
    ['smtpd-starttls-proxy'],
    ['smtpd-starttls-proxy-io', ...fixture('s6-ucspitlsd-double')],
  ] as const) {
    it(`gets a hundred replies of ${name}, and one line`, async (t) => {
      const { port, served, close } = await serve([...chain, ours(name), ...SMTPD], serverEnvironment());
      t.after(close);
      const client = await connectGreeted(t, port);
      client.send(LINES);
      assert.equal(await untilClosed(client), ANSWER);
      client.destroy();
      const { ended, stderr } = await served(0);
      await ended;
      assert.equal(stderr(), `${name}: warning: too many commands were refused, closing\n`);
    });
  }
});

describe('--error-limit', { concurrency: 3, timeout: 60_000 }, () => {
  it('counts refusals by smtpd and our own, consecutive or not', async (t) => {
    const { port } = await start(t, '--error-limit', '3');
    const client = await connectGreeted(t, port);
    client.sendLines('XYZZY', 'NOOP', 'DATA', 'EHLO client', 'XYZZY', 'NOOP');
    assert.equal(
      await untilClosed(client),
      [
        '502 what?',
        '250 yes',
        '503 5.5.1 Send MAIL first',
        '250-yes',
        '250 STARTTLS',
        '502 what?',
        LAST,
      ].join('\r\n'),
    );
  });

  it('does not apply after the dialogue', async (t) => {
    const { port } = await start(t, '--error-limit', '2');
    const plain = await connectGreeted(t, port);
    assert.equal(await plain.ask('MAIL FROM:<>'), '250 yes');
    const secure = await connectGreeted(t, port);
    await secure.startTls();
    for (const client of [plain, secure]) {
      for (let count = 0; count < 5; count++) assert.equal(await client.ask('XYZZY'), '502 what?');
      assert.equal(await client.ask('NOOP'), '250 yes');
    }
  });

  it('is logged ten times a second', async (t) => {
    const server = await start(t, '--error-limit', '1');
    const startedAt = performance.now();
    const clients = await Promise.all(Array.from({ length: 60 }, () => connectGreeted(t, server.port)));
    await Promise.all(
      clients.map(async (client) => {
        client.sendLines('');
        assert.equal(await untilClosed(client), REFUSED + LAST);
        client.destroy();
      }),
    );
    server.signal('SIGUSR1');
    await server.logs(/ error_limit_reached=60 /);
    const lines = server.stderr().match(/event=error-limit .*\n/g) ?? [];
    const suppressed = lines.reduce((sum, line) => sum + Number(/ suppressed=(\d+)/.exec(line)?.[1] ?? 0), 0);
    assert.ok(lines.length + suppressed <= 60, `${lines.length} lines and ${suppressed} suppressed`);
    const seconds = Math.ceil((performance.now() - startedAt) / 1000) + 1;
    assert.ok(lines.length >= 10 && lines.length <= 10 * seconds, `${lines.length} lines`);
  });
});
