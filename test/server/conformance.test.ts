/** What the server does as a whole, and whether its man page agrees. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { REFUSALS } from '../../lib/server/connection/admission.ts';
import { ALL_FAMILIES } from '../../lib/server/metrics/families.ts';
import { watch } from '../support/chain.ts';
import { readMetrics } from '../support/metrics.ts';
import { until } from '../support/processes.ts';
import { fixture, missing, ROOT } from '../support/programs.ts';
import { makeFolder } from '../support/real-chain.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { connectSmtp } from '../support/smtp-client.ts';
import { closedPort } from '../support/tcp.ts';

const SMTPD = fixture('smtpd-script');
const SCALING = readFileSync(join(ROOT, 'docs/scaling.md'), 'utf8');
const PAGE = readFileSync(join(ROOT, 'docs/man/smtpd-starttls-server.8.md'), 'utf8');

/** A server, and a function that reads its metrics. */
interface Scene {
  readonly server: RunningServer;
  /** The series of `/metrics` with their values, without the prefix that all share. */
  metrics(): Promise<ReadonlyMap<string, number>>;
}

async function open(t: TestContext, ...options: string[]): Promise<Scene> {
  const server = await startServer(['-v2', '--metrics', '127.0.0.1:0', ...options], SMTPD);
  t.after(server.close);
  return { server, metrics: () => readMetrics(server) };
}

/** Polls until no connection is open, when all sessions have been counted. */
async function whenQuiet({ metrics }: Scene): Promise<ReadonlyMap<string, number>> {
  let last = await metrics();
  const deadline = Date.now() + 20_000;
  while (last.get('connections_open') !== 0) {
    assert.ok(Date.now() < deadline, 'connections stay open');
    last = await metrics();
  }
  return last;
}

/** All series of a family, added up. */
function total(metrics: ReadonlyMap<string, number>, family: string): number {
  return [...metrics]
    .filter(([name]) => name === family || name.startsWith(`${family}{`))
    .reduce((sum, [, value]) => sum + value, 0);
}

describe('--metrics', { concurrency: 2 }, () => {
  for (const workers of ['1', '2']) {
    it(`counts sessions of all kinds, with --workers ${workers}`, async (t) => {
      const scene = await open(t, '--workers', workers, '-C', '1');
      const { port } = scene.server;
      const none = await scene.metrics();
      assert.equal(total(none, 'connections_accepted_total'), 0);

      const plain = await connectSmtp(port);
      await plain.reply();
      const refused = await connectSmtp(port);
      assert.match(await refused.reply(), /^421 4\.7\.0 /);
      refused.destroy();
      await plain.ask('HELO client.example');
      await plain.ask('QUIT');
      await plain.rest();
      plain.destroy();
      await whenQuiet(scene);

      const secure = await connectSmtp(port);
      await secure.reply();
      await secure.startTls();
      await secure.ask('EHLO client.example');
      await secure.ask('QUIT');
      await secure.rest();
      secure.destroy();
      await whenQuiet(scene);

      const broken = await connectSmtp(port);
      await broken.reply();
      assert.match(await broken.ask('STARTTLS'), /^220 /);
      broken.send('this is no TLS\r\n');
      await broken.rest().catch(() => {});
      broken.destroy();

      const all = await whenQuiet(scene);
      const counted = (name: string): number | undefined => all.get(name);
      assert.equal(counted('connections_accepted_total'), 4);
      assert.equal(counted('connections_refused_total{reason="per-address"}'), 1);
      assert.equal(counted('sessions_total{verdict="plaintext"}'), 1);
      assert.equal(counted('sessions_total{verdict="tls"}'), 2);
      assert.equal(total(all, 'tls_handshakes_total'), 1);
      assert.match(
        [...all.keys()].join('\n'),
        /^tls_handshakes_total\{protocol="TLSv1\.3",cipher="TLS_[A-Z0-9_]+",resumed="no"\}$/m,
      );
      // Which one it is depends on the version of OpenSSL.
      assert.match([...all.keys()].join('\n'), /^tls_handshake_failures_total\{reason="ERR_[A-Z_]+"\}$/m);
      assert.equal(total(all, 'tls_handshake_failures_total'), 1);
      assert.equal(total(all, 'smtpd_exits_total'), 3);
      assert.ok((counted('smtpd_exits_total{status="0"}') ?? 0) >= 2);
      assert.ok(total(all, 'received_bytes_total') > 'HELO client.example\r\nQUIT\r\n'.length);
      assert.ok(total(all, 'sent_bytes_total') > 0);
      assert.equal(counted('session_duration_seconds_count'), 3);
      assert.equal(counted('session_duration_seconds_bucket{le="+Inf"}'), 3);
      assert.equal(counted('tls_handshake_duration_seconds_count'), 1);
      assert.equal(counted('greeting_delay_seconds_count'), 3);
      assert.equal(counted('connections_waiting'), 0);
    });
  }

  it('counts sessions with --implicit-tls, where there is no dialogue', async (t) => {
    const scene = await open(t, '--implicit-tls');
    const client = await connectSmtp(scene.server.port);
    await client.shakeHands();
    await client.reply();
    await client.ask('QUIT');
    await client.rest();
    client.destroy();
    const all = await whenQuiet(scene);
    assert.equal(all.get('sessions_total{verdict="tls"}'), 1);
    assert.equal(total(all, 'sessions_total'), 1);
  });
});

describe('a listening socket that is not a TCP socket', { concurrency: 2 }, () => {
  for (const workers of ['1', '2']) {
    it(`is refused, with --workers ${workers}`, async (t) => {
      const path = join(makeFolder(t), 'socket');
      const listener = createServer();
      await new Promise<void>((resolve) => listener.listen(path, resolve));
      t.after(() => listener.close());
      const socket: unknown = Reflect.get(listener, '_handle');
      assert.ok(typeof socket === 'object' && socket !== null && 'fd' in socket);
      const stdin = socket.fd;
      assert.ok(typeof stdin === 'number');
      await assert.rejects(
        startServer(['--workers', workers], SMTPD, { listen: ['-'], stdin }).then((server) => server.close()),
        /ended with 100: smtpd-starttls-server: fatal: usage error: descriptor 0 is not a TCP socket\n/,
      );
    });
  }
});

describe('--alpn', () => {
  it('is refused without a protocol name', async () => {
    await assert.rejects(
      startServer(['--alpn', ''], SMTPD).then((server) => server.close()),
      /ended with 100: [^\n]*--alpn/,
    );
  });
});

describe('a machine behind HAProxy', { skip: missing('haproxy') }, () => {
  it('is drained and enabled again, as in docs/scaling.md', async (t) => {
    const greets = (name: string): string[] => [
      ...['sh', '-c', 'printf "220 $0\\r\\n"; while read -r line; do printf "250 $0\\r\\n"; done'],
      name,
    ];
    const options = ['--proxy-protocol', '127.0.0.1'];
    const one = await startServer(options, greets('one'));
    t.after(one.close);
    const two = await startServer(options, greets('two'));
    t.after(two.close);
    const folder = makeFolder(t);
    const port = await closedPort();
    const sendCommand = await startHaproxy(t, folder, port, [one.port, two.port]);
    const connectNamed = async (): Promise<{ name: string; ask: () => Promise<string> }> => {
      const client = await connectSmtp(port);
      t.after(() => client.destroy());
      return { name: (await client.reply()).slice(4), ask: () => client.ask('NOOP') };
    };

    const first = [await connectNamed(), await connectNamed()];
    assert.deepEqual(first.map(({ name }) => name).sort(), ['one', 'two']);
    const [drain = '', ready = ''] = SCALING.match(/set server smtp\/one state \w+/g) ?? [];
    assert.match(drain, /drain$/);
    assert.match(ready, /ready$/);

    await sendCommand(drain);
    for (let count = 0; count < 4; count++) assert.equal((await connectNamed()).name, 'two');
    for (const { name, ask } of first) assert.equal(await ask(), `250 ${name}`);
    // It has fewer than the other by now.
    await sendCommand(ready);
    assert.equal((await connectNamed()).name, 'one');
  });
});

/** Starts HAProxy as in the example, with the socket of docs/scaling.md; gives a function that sends it a command. */
async function startHaproxy(
  t: TestContext,
  folder: string,
  port: number,
  servers: readonly number[],
): Promise<(words: string) => Promise<void>> {
  const socket = join(folder, 'haproxy.sock');
  const [stats = ''] = /stats socket \S+ level admin/.exec(SCALING) ?? [];
  const example = readFileSync(join(ROOT, 'docs/examples/haproxy/haproxy.cfg'), 'utf8');
  const text = example
    .replace(/listen submissions.*$/s, '')
    .replace('global\n', `global\n    ${stats.replace(/\/\S+/, socket)}\n`)
    .replace(':::25 v4v6', `127.0.0.1:${port}`)
    .replace('192.0.2.11:2525', `127.0.0.1:${servers[0]}`)
    .replace('192.0.2.12:2525', `127.0.0.1:${servers[1]}`);
  const file = join(folder, 'haproxy.cfg');
  writeFileSync(file, text);
  const child = spawn('haproxy', ['-db', '-f', file], { stdio: ['ignore', 'ignore', 'pipe'] });
  const haproxy = watch(child);
  t.after(async () => {
    child.kill('SIGKILL');
    await haproxy.ended;
  });
  await until('HAProxy listens', () => child.exitCode !== null || (existsSync(socket) && isListening(port)));
  assert.equal(child.exitCode, null, haproxy.stderr());
  return async (words) => {
    const connection = connect(socket);
    connection.setEncoding('utf8');
    connection.end(`${words}\n`);
    let reply = '';
    for await (const piece of connection) reply += piece;
    assert.equal(reply.trim(), '');
  };
}

/** Reads the kernel's tables: connecting would add a connection to the server's count. */
function isListening(port: number): boolean {
  const address = `0100007F:${port.toString(16).toUpperCase().padStart(4, '0')} 00000000:0000 0A`;
  return readFileSync('/proc/net/tcp', 'latin1').includes(address);
}

describe('the man page of the server', () => {
  const rows = PAGE.split('\n').filter((line) => line.startsWith('|'));

  it('lists all metrics, with their kinds and labels', () => {
    for (const { name, kind, labels } of ALL_FAMILIES) {
      const row = rows.find((line) => line.split('|')[1]?.includes(`\`${name}\``));
      assert.ok(row !== undefined, name);
      const [, , kindCell = '', labelCell = ''] = row.split('|');
      assert.equal(kindCell.trim(), kind, name);
      for (const label of labels) assert.ok(labelCell.includes(`\`${label}\``), `${name}: ${label}`);
    }
  });

  it('lists each reason to refuse a connection', () => {
    for (const refusal of REFUSALS) {
      assert.ok(
        rows.some((line) => line.split('|')[3]?.trim() === `\`${refusal}\``),
        refusal,
      );
    }
  });

  it('lists each event of the log, and no other', () => {
    const documented = rows
      .filter((line) => /\b(?:debug|info|warning|fatal)\b/.test(line.split('|')[2] ?? ''))
      .flatMap((line) => [...(line.split('|')[1] ?? '').matchAll(/`([a-z-]+)`/g)].map(([, event]) => event));
    assert.deepEqual([...new Set(documented)].sort(), [...eventsInSource()].sort());
  });
});

/** The names of the events that the source logs. */
function eventsInSource(): Set<string> {
  const events = new Set(['session']);
  const folder = join(ROOT, 'lib/server');
  const files = readdirSync(folder, { encoding: 'utf8', recursive: true });
  for (const file of files.filter((name) => name.endsWith('.ts') && name !== 'log.ts')) {
    const text = readFileSync(join(folder, file), 'utf8');
    const calls =
      /\b(?:reporterOf|(?:log|always|named)(?:\.(?:fatal|warning|info|debug|reporter)|\[[^\]]*\]))\(\s*'([a-z-]+)'/g;
    for (const [, event = ''] of text.matchAll(calls)) events.add(event);
  }
  return events;
}
