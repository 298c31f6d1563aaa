/** --greet-delay: the greeting is held back, and a client that sends data before it gets no smtpd. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { serve } from '../support/chain.ts';
import { statusOf, until } from '../support/processes.ts';
import { ours } from '../support/programs.ts';
import { type RunningServer, serverEnvironment, startServer } from '../support/server.ts';
import { runShim, SERVER_NAMES } from '../support/shim.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';
import { DEADLINE } from '../support/within.ts';

const EARLY = '554 5.5.1 Wait for the greeting before sending commands, closing connection\r\n';
const STOPPING = '421 4.3.2 Mail server shutting down, please try again later\r\n';
const PROXY_HEADER = 'PROXY TCP4 192.0.2.1 192.0.2.25 4000 25\r\n';
const PROXIES = ['--proxy-protocol', '127.0.0.1'];
/** Longer than any test takes, so that no test depends on time. */
const LONG = ['--greet-delay', '300'];
/** The shortest there is. */
const SHORT = ['--greet-delay', '1'];

/** An smtpd that leaves a mark when it is started. */
interface MarkingSmtpd {
  readonly command: readonly string[];
  wasStarted(): boolean;
}

function makeSmtpd(t: TestContext): MarkingSmtpd {
  const folder = mkdtempSync(join(tmpdir(), 'greet-delay-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const mark = join(folder, 'started');
  const script = `: >"$0"; printf "220 %s ready\\r\\n" "$TCPREMOTEIP"
    while read -r line; do printf "250 yes\\r\\n"; done`;
  return { command: ['sh', '-c', script, mark], wasStarted: () => existsSync(mark) };
}

/** A program that serves one connection, and its client. */
interface Run {
  readonly client: SmtpClient;
  /** Settles with the process id of the program. */
  pid(): Promise<number>;
  /** Settles with its exit status. */
  status(): Promise<number | null>;
  stderr(): string;
}

async function runProxy(t: TestContext, options: readonly string[], smtpd: MarkingSmtpd): Promise<Run> {
  const command = [ours('smtpd-starttls-proxy'), ...options, ...smtpd.command];
  const chain = await serve(command, serverEnvironment());
  t.after(chain.close);
  const client = await connectTo(t, chain);
  const served = await chain.served(0);
  return {
    client,
    pid: async () => served.pid,
    status: async () => (await served.ended).code,
    stderr: served.stderr,
  };
}

async function runShimIn(
  server: string,
  t: TestContext,
  options: readonly string[],
  { command }: MarkingSmtpd,
): Promise<Run> {
  const { client, shim, status, served } = await runShim(t, { server, options, command });
  return { client, pid: shim, status, stderr: served.stderr };
}

async function connectTo(t: TestContext, { port }: { readonly port: number }): Promise<SmtpClient> {
  const client = await connectSmtp(port, { limit: DEADLINE });
  t.after(client.destroy);
  return client;
}

/** Asserts that the client gets a greeting that was held back. Load can only make it come later. */
async function assertGreeted(client: SmtpClient, connecting: number, ip = '127.0.0.1'): Promise<void> {
  assert.equal(await client.reply(), `220 ${ip} ready`);
  // A millisecond less: timers of Node have no fractions.
  assert.ok(performance.now() - connecting >= 999);
}

/** Asserts that the session goes on as without a delay: STARTTLS, and commands in pieces. */
async function assertServed(client: SmtpClient): Promise<void> {
  client.send('EHLO cli');
  client.send('ent\r\nNOOP\r\n');
  assert.equal(await client.reply(), '250-yes\n250 STARTTLS');
  assert.match(await client.reply(), /^250 /);
  await client.startTls();
  client.sendLines('EHLO client', 'MAIL FROM:<>');
  assert.deepEqual([await client.reply(), await client.reply()], ['250 yes', '250 yes']);
}

/**
 * Waits until a program has a session. Its handler for SIGHUP is the last one that it sets, after the session has
 * started; Node itself catches SIGTERM and SIGINT.
 */
async function hasSession(pid: number): Promise<void> {
  await until('it has a session', () => (Number.parseInt(statusOf(pid, 'SigCgt').slice(-1), 16) & 1) === 1);
}

for (const [name, start] of [
  ['smtpd-starttls-proxy', runProxy],
  ['smtpd-starttls-proxy-io', runShimIn.bind(undefined, 's6-ucspitlsd')],
] as const) {
  describe(`--greet-delay of ${name}`, { concurrency: 3, timeout: 120_000 }, () => {
    it('refuses an early talker, and starts no smtpd for it', async (t) => {
      const smtpd = makeSmtpd(t);
      const { client, status, stderr } = await start(t, LONG, smtpd);
      client.send('EHLO client\r\nMAIL FROM:<');
      assert.equal(await client.reply(), EARLY.trimEnd());
      client.send('a@b>\r\nDATA\r\n');
      client.end();
      assert.equal(await client.rest(), '');
      assert.equal(await status(), 0);
      assert.equal(stderr(), `${name}: warning: the client sent data before the greeting, closing\n`);
      assert.equal(smtpd.wasStarted(), false);
    });

    it('ends without a message when the client half-closes', async (t) => {
      const smtpd = makeSmtpd(t);
      const { client, status, stderr } = await start(t, LONG, smtpd);
      client.end();
      assert.equal(await client.rest(), '');
      assert.deepEqual([await status(), stderr(), smtpd.wasStarted()], [0, '', false]);
    });

    it('ends at once on SIGTERM', async (t) => {
      const smtpd = makeSmtpd(t);
      const { client, pid, status, stderr } = await start(t, LONG, smtpd);
      const program = await pid();
      await hasSession(program);
      process.kill(program, 'SIGTERM');
      assert.equal(await client.rest(), STOPPING);
      client.end();
      assert.deepEqual([await status(), stderr(), smtpd.wasStarted()], [111, '', false]);
    });
  });
}

describe('a client that waits for the greeting', { concurrency: 3, timeout: 120_000 }, () => {
  for (const [name, start] of [
    ['smtpd-starttls-proxy', runProxy],
    ...SERVER_NAMES.map((server) => [`the shim under ${server}`, runShimIn.bind(undefined, server)] as const),
  ] as const) {
    it(`is served by ${name}, with STARTTLS`, async (t) => {
      const connecting = performance.now();
      const { client } = await start(t, SHORT, makeSmtpd(t));
      await assertGreeted(client, connecting);
      await assertServed(client);
    });
  }

  for (const more of [[], ['--on-demand'], ['--workers', '2']]) {
    it(`is served by smtpd-starttls-server ${more.join(' ')}, with STARTTLS`, async (t) => {
      const server = await startListening(t, [...SHORT, ...more], makeSmtpd(t));
      const connecting = performance.now();
      const client = await connectTo(t, server);
      await assertGreeted(client, connecting);
      await assertServed(client);
    });
  }
});

async function startListening(
  t: TestContext,
  options: readonly string[],
  smtpd: MarkingSmtpd,
): Promise<RunningServer> {
  const server = await startServer(['-v3', ...options], smtpd.command);
  t.after(server.close);
  return server;
}

/** The lines of the log with an event, without what differs from run to run. */
function linesOf(server: RunningServer, event: string): string[] {
  const lines = server.stderr().match(new RegExp(`^.* event=${event} .*$`, 'gm')) ?? [];
  return lines.map((line) => line.replace(/ id=\S+ remote=\S+/, '').replace(/ in=.*/, ''));
}

const EARLY_LINE = 'smtpd-starttls-server: warning: event=early-talker';

describe('--greet-delay of smtpd-starttls-server', { concurrency: 3, timeout: 120_000 }, () => {
  for (const more of [[], ['--workers', '2']]) {
    it(`refuses early talkers, counts and logs them ${more.join(' ')}`, async (t) => {
      const smtpd = makeSmtpd(t);
      const server = await startListening(t, [...LONG, ...more], smtpd);
      const client = await connectTo(t, server);
      client.send('EHLO client\r\nMAIL FROM:<');
      assert.equal(await client.reply(), EARLY.trimEnd());
      client.send('a@b>\r\nDATA\r\n');
      client.end();
      assert.equal(await client.rest(), '');
      await server.logs(/ event=end /);
      assert.deepEqual(linesOf(server, 'early-talker'), [EARLY_LINE]);
      assert.deepEqual(linesOf(server, 'end'), [
        'smtpd-starttls-server: info: event=end verdict=close smtpd=none',
      ]);
      server.signal('SIGUSR1');
      await server.logs(/ close=1 .* early_talkers=1 .* smtpd_started=0 without_smtpd=1 smtpd_exits=0 /);
      assert.equal(smtpd.wasStarted(), false);
    });
  }

  it('logs ten early talkers a second', async (t) => {
    const server = await startListening(t, LONG, makeSmtpd(t));
    const startedAt = performance.now();
    const clients = await Promise.all(Array.from({ length: 60 }, () => connectTo(t, server)));
    await Promise.all(
      clients.map(async (client) => {
        client.sendLines('EHLO client');
        client.end();
        assert.equal(await client.rest(), EARLY);
      }),
    );
    server.signal('SIGUSR1');
    await server.logs(/ early_talkers=60 /);
    const lines = linesOf(server, 'early-talker');
    const seconds = Math.ceil((performance.now() - startedAt) / 1000) + 1;
    assert.ok(lines.length >= 10 && lines.length <= 10 * seconds, `${lines.length} lines`);
  });

  it('ends without a warning when the client closes or half-closes', async (t) => {
    const smtpd = makeSmtpd(t);
    const server = await startListening(t, LONG, smtpd);
    const closing = await connectTo(t, server);
    closing.end();
    assert.equal(await closing.rest(), '');
    const resetting = await connectTo(t, server);
    await server.logs(/( event=accepted [\s\S]*){2}/);
    resetting.tcp().resetAndDestroy();
    await server.logs(/( event=end [\s\S]*){2}/);
    assert.deepEqual(server.stderr().match(/^.*warning: .*$/gm), null);
    assert.equal(smtpd.wasStarted(), false);
  });

  it('ends at once when the server stops', async (t) => {
    const smtpd = makeSmtpd(t);
    const server = await startListening(t, [...LONG, '--grace', '0'], smtpd);
    const client = await connectTo(t, server);
    await server.logs(/ event=accepted /);
    server.signal('SIGTERM');
    assert.equal(await client.rest(), STOPPING);
    client.end();
    assert.deepEqual(await server.ended, { code: 0, signal: null });
    assert.equal(smtpd.wasStarted(), false);
  });

  it('continues in the grace period, as other sessions do', async (t) => {
    const server = await startListening(t, SHORT, makeSmtpd(t));
    const client = await connectTo(t, server);
    await server.logs(/ event=accepted /);
    server.signal('SIGTERM');
    assert.equal(await client.reply(), '220 127.0.0.1 ready');
    client.end();
    assert.deepEqual(await server.ended, { code: 0, signal: null });
  });

  it('with --on-demand starts no smtpd but the one for the introduction', async (t) => {
    const server = await startListening(t, [...LONG, '--on-demand'], makeSmtpd(t));
    const client = await connectTo(t, server);
    client.sendLines('EHLO client');
    client.end();
    assert.equal(await client.rest(), EARLY);
    await server.logs(/ event=end /);
    server.signal('SIGUSR1');
    await server.logs(/ early_talkers=1 .* smtpd_started=1 without_smtpd=1 /);
  });
});

/** The server and the proxy, which both know about TLS and about PROXY headers. */
const TLS_PROGRAMS = [
  [
    'smtpd-starttls-server',
    async (t: TestContext, options: readonly string[], smtpd: MarkingSmtpd): Promise<SmtpClient> =>
      connectTo(t, await startListening(t, options, smtpd)),
  ],
  [
    'smtpd-starttls-proxy',
    async (t: TestContext, options: readonly string[], smtpd: MarkingSmtpd): Promise<SmtpClient> =>
      (await runProxy(t, options, smtpd)).client,
  ],
] as const;

for (const [name, start] of TLS_PROGRAMS) {
  describe(`--greet-delay of ${name}, with --implicit-tls`, { concurrency: 3, timeout: 120_000 }, () => {
    it('begins after the handshake: a client that waits is greeted', async (t) => {
      const client = await start(t, [...SHORT, '--implicit-tls'], makeSmtpd(t));
      const shaking = performance.now();
      await client.shakeHands();
      await assertGreeted(client, shaking);
      assert.equal(await client.ask('EHLO client'), '250 yes');
    });

    it('refuses an early talker in TLS', async (t) => {
      const smtpd = makeSmtpd(t);
      const client = await start(t, [...LONG, '--implicit-tls'], smtpd);
      await client.shakeHands();
      client.sendLines('EHLO client');
      assert.equal(await client.rest(), EARLY);
      assert.equal(smtpd.wasStarted(), false);
    });

    it('ends when the client closes TLS', async (t) => {
      const smtpd = makeSmtpd(t);
      const client = await start(t, [...LONG, '--implicit-tls'], smtpd);
      await client.shakeHands();
      client.end();
      assert.equal(await client.rest(), '');
      assert.equal(smtpd.wasStarted(), false);
    });
  });

  describe(`--greet-delay of ${name}, with --proxy-protocol`, { concurrency: 3, timeout: 120_000 }, () => {
    it('begins after the header', async (t) => {
      const client = await start(t, [...SHORT, ...PROXIES], makeSmtpd(t));
      const sending = performance.now();
      client.send(PROXY_HEADER);
      await assertGreeted(client, sending, '192.0.2.1');
      await assertServed(client);
    });

    for (const [how, send] of [
      ['in the packet of the header', (client: SmtpClient) => client.send(`${PROXY_HEADER}EHLO client\r\n`)],
      [
        'after the header',
        (client: SmtpClient) => {
          client.send(PROXY_HEADER.slice(0, 9));
          client.send(PROXY_HEADER.slice(9));
          client.send('EHLO client\r\n');
        },
      ],
    ] as const) {
      it(`refuses a client that sends a command ${how}`, async (t) => {
        const smtpd = makeSmtpd(t);
        const client = await start(t, [...LONG, ...PROXIES], smtpd);
        send(client);
        assert.equal(await client.rest(), EARLY);
        assert.equal(smtpd.wasStarted(), false);
      });
    }

    it('refuses a ClientHello behind the header', async (t) => {
      const smtpd = makeSmtpd(t);
      const client = await start(t, [...LONG, ...PROXIES], smtpd);
      client.send(Buffer.concat([Buffer.from(PROXY_HEADER), Buffer.from('1603010200010001fc0303', 'hex')]));
      assert.equal(await client.rest(), EARLY);
      assert.equal(smtpd.wasStarted(), false);
    });
  });
}
