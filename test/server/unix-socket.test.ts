/** The server before an SMTP server on a Unix socket (--to unix:PATH). */

import assert from 'node:assert/strict';
import { chmodSync, existsSync, linkSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import {
  type Backend,
  BIG_MESSAGE,
  endOfV1,
  endOfV2,
  makeBackend,
  refuseMessage,
} from '../support/backend.ts';
import { certificateForAll, type RunningServer, type ServerSetup, startServer } from '../support/server.ts';
import { connectTo } from '../support/smtp-client.ts';
import { listenUnix } from '../support/tcp.ts';

const folder = mkdtempSync(join(tmpdir(), 'unix-'));
after(() => rmSync(folder, { recursive: true, force: true }));

let paths = 0;

/** A path on which nothing listens yet. */
function newPath(): string {
  paths += 1;
  return join(folder, `smtpd-${paths}`);
}

async function startBackend(
  t: TestContext,
  headerEnd?: Parameters<typeof makeBackend>[0],
): Promise<Backend & { readonly path: string }> {
  const backend = makeBackend(headerEnd);
  const path = newPath();
  await listenUnix(t, path, backend.serve);
  return { ...backend, path };
}

async function startFront(
  t: TestContext,
  path: string,
  options: readonly string[] = [],
  setup: ServerSetup = {},
): Promise<RunningServer> {
  const server = await startServer(['--to', `unix:${path}`, ...options], [], setup);
  t.after(server.close);
  return server;
}

function receivedBy({ connections }: Backend): string[] {
  return connections.map(({ received }) => received.toString('latin1'));
}

describe('a backend on a Unix socket', { concurrency: 3, timeout: 60_000 }, () => {
  it('serves a session in TLS, and the log has its name', async (t) => {
    const backend = await startBackend(t);
    const server = await startFront(t, backend.path, ['-v2']);
    const client = await connectTo(t, server);
    assert.equal(await client.reply(), '220 backend');
    await client.startTls();
    assert.equal(await client.ask('QUIT'), '221 bye');
    client.end();
    assert.equal(await client.rest(), '');
    await server.logs(new RegExp(`event=end .* smtpd=unix:${backend.path} status=0 `));
    assert.deepEqual(receivedBy(backend), ['RSET\r\nQUIT\r\n']);
  });

  it('may be given by a path relative to the working directory', async (t) => {
    const backend = await startBackend(t);
    const server = await startFront(t, backend.path.slice(folder.length + 1), [], {
      under: ['env', '-C', folder],
    });
    const client = await connectTo(t, server);
    assert.equal(await client.reply(), '220 backend');
  });

  it('is sent the client’s address by version 1', async (t) => {
    const backend = await startBackend(t, endOfV1);
    const server = await startFront(t, backend.path, ['--send-proxy', 'v1']);
    const client = await connectTo(t, server);
    assert.equal(await client.reply(), '220 backend');
    assert.deepEqual(receivedBy(backend), [
      `PROXY TCP4 127.0.0.1 127.0.0.1 ${client.tcp().localPort} ${server.port}\r\n`,
    ]);
  });

  it('is connected to again with --fresh, and sent TLS by version 2', async (t) => {
    const backend = await startBackend(t, endOfV2);
    const server = await startFront(t, backend.path, ['--fresh', '--send-proxy', 'v2', '-v2']);
    const client = await connectTo(t, server);
    await client.reply();
    await client.startTls();
    assert.equal(await client.ask('NOOP'), '250 ok');
    const headers = receivedBy(backend);
    assert.equal(headers.length, 2);
    for (const header of headers) assert.ok(header.startsWith('\r\n\r\n\0\r\nQUIT\n\x21\x11'));
    assert.deepEqual(
      headers.map((header) => header.includes('TLSv1.3')),
      [false, true],
    );
  });

  for (const secure of [false, true]) {
    it(`may close before it has read all, and its last reply arrives in ${secure ? 'TLS' : 'cleartext'}`, async (t) => {
      const path = newPath();
      await listenUnix(t, path, refuseMessage);
      const server = await startFront(t, path, ['-v2']);
      const client = await connectTo(t, server);
      await client.reply();
      if (secure) await client.startTls();
      await client.ask('MAIL FROM:<me@example.org>');
      assert.equal(await client.ask('DATA'), '354 go');
      client.send(BIG_MESSAGE);
      assert.equal(await client.reply(), '552 5.3.4 too big');
      client.destroy();
      // As with a program that exits then.
      await server.logs(/event=end .* status=0 /);
      assert.doesNotMatch(server.stderr(), /fatal|warning/);
    });
  }

  it('is used by all workers', async (t) => {
    const backend = await startBackend(t);
    const server = await startFront(t, backend.path, ['--workers', '2']);
    for (let left = 4; left > 0; left -= 1) {
      const client = await connectTo(t, server);
      assert.equal(await client.reply(), '220 backend');
    }
    assert.equal(backend.connections.length, 4);
  });
});

describe('a backend on a Unix socket with --on-demand', { concurrency: 3, timeout: 60_000 }, () => {
  it('gets no connection for a probe but that of the introduction, and one for a mail', async (t) => {
    const backend = await startBackend(t, endOfV1);
    const server = await startFront(t, backend.path, ['--on-demand', '--send-proxy', 'v1', '-v2']);
    const probe = await connectTo(t, server);
    assert.equal(await probe.reply(), '220 backend');
    assert.match(await probe.ask('EHLO probe.example'), /^250[ -]/);
    await probe.startTls();
    assert.match(await probe.ask('EHLO probe.example'), /^250[ -]/);
    assert.match(await probe.ask('QUIT'), /^221 /);
    probe.end();
    await server.logs(/event=end .* verdict=tls smtpd=none /);
    const early = await connectTo(t, server);
    await early.reply();
    assert.match(await early.ask('QUIT'), /^221 /);
    early.end();
    await server.logs(/event=end .* verdict=close smtpd=none /);
    // No port is 0: exim takes no header with such a port.
    const introduction =
      'PROXY TCP4 127.0.0.1 127.0.0.1 1 25\r\nEHLO [127.0.0.1]\r\nHELO [127.0.0.1]\r\nQUIT\r\n';
    assert.deepEqual(receivedBy(backend), [introduction]);

    const client = await connectTo(t, server);
    const from = client.tcp().localPort;
    await client.reply();
    await client.startTls();
    assert.match(await client.ask('EHLO client.example'), /^250[ -]/);
    assert.equal(await client.ask('MAIL FROM:<me@example.org>'), '250 ok');
    assert.equal(await client.ask('QUIT'), '221 bye');
    client.end();
    await server.logs(/event=end .* smtpd=unix:/);
    const header = `PROXY TCP4 127.0.0.1 127.0.0.1 ${from} ${server.port}\r\n`;
    assert.deepEqual(receivedBy(backend), [
      introduction,
      `${header}EHLO client.example\r\nMAIL FROM:<me@example.org>\r\nQUIT\r\n`,
    ]);
  });

  it('that disappears after the introduction: 421, and a line in the log', async (t) => {
    const path = newPath();
    const backend = makeBackend();
    const listener = createServer(backend.serve);
    await new Promise<void>((resolve) => listener.listen(path, resolve));
    const server = await startFront(t, path, ['--on-demand', '-v2']);
    await server.logs(/event=introduction text=backend\n/);
    await new Promise((resolve) => listener.close(resolve));
    const client = await connectTo(t, server);
    assert.equal(await client.reply(), '220 backend');
    assert.match(await client.ask('EHLO client.example'), /^250[ -]/);
    assert.match(await client.ask('VRFY <you@example.org>'), /^421 4\.3\.0 /);
    await server.logs(
      new RegExp(
        `: warning: event=session .* text="cannot reach unix:${path}: ENOENT \\(no such socket\\)"\n`,
      ),
    );
  });
});

describe('a backend on a Unix socket that fails', { concurrency: 3, timeout: 60_000 }, () => {
  async function assertUnreachable(
    t: TestContext,
    path: string,
    why: string,
    options: readonly string[] = [],
    setup: ServerSetup = {},
  ): Promise<void> {
    const server = await startFront(t, path, options, setup);
    const client = await connectTo(t, server);
    assert.match(await client.reply(), /^421 4\.3\.0 /);
    assert.equal(await client.rest(), '');
    client.end();
    await server.logs(new RegExp(`: warning: event=session .* text="cannot reach unix:${path}: ${why}"\n`));
    assert.equal(server.stderr().match(/event=session/g)?.length, 1);
  }

  it('is not there: 421, and a line in the log', (t) =>
    assertUnreachable(t, newPath(), String.raw`ENOENT \(no such socket\)`));

  it('is not there, on demand: a line in the log at the start, with the reason', async (t) => {
    const path = newPath();
    const server = await startFront(t, path, ['--on-demand']);
    const why = String.raw`unable to learn .*: cannot reach unix:${path}: ENOENT \(no such socket\)`;
    await server.logs(new RegExp(`: warning: event=introduction text="${why}"\n`));
  });

  it('has left its socket behind: 421, and a line in the log', async (t) => {
    const path = newPath();
    const moved = `${path}.moved`;
    const listener = createServer();
    await new Promise<void>((resolve) => listener.listen(moved, resolve));
    // Node removes the path that it has bound, and no other.
    linkSync(moved, path);
    await new Promise((resolve) => listener.close(resolve));
    assert.ok(existsSync(path));
    await assertUnreachable(t, path, String.raw`ECONNREFUSED \(nothing listens there\)`);
  });

  it('does not let our user connect: 421, and a line in the log', async (t) => {
    const inner = join(folder, 'private');
    mkdirSync(inner);
    const path = join(inner, 'smtpd');
    const backend = makeBackend();
    await listenUnix(t, path, backend.serve);
    // Only root can, who therefore has another user serve.
    chmodSync(path, 0);
    chmodSync(folder, 0o711);
    chmodSync(inner, 0o711);
    const options = process.getuid?.() === 0 ? ['-u', '65534', '-g', '65534'] : [];
    await assertUnreachable(t, path, String.raw`EACCES \(this user cannot write to it, .+\)`, options, {
      environment: certificateForAll(t),
    });
    assert.equal(backend.connections.length, 0);
  });

  it('closes in TLS: 421, and a line in the log', async (t) => {
    const backend = await startBackend(t);
    const server = await startFront(t, backend.path);
    const client = await connectTo(t, server);
    await client.reply();
    await client.startTls();
    backend.connections[0]?.socket.destroy();
    assert.match(await client.reply(), /^421 4\.3\.0 /);
    assert.equal(await client.rest(), '');
    client.end();
    await server.logs(
      /: warning: event=session .* text="smtpd exited mid-session: it closed the connection"\n/,
    );
  });

  it('closes without reading: 421, and a line in the log', async (t) => {
    const path = newPath();
    // What s6-ipcserver does beyond its limit.
    await listenUnix(t, path, (socket) => void socket.destroy());
    const server = await startFront(t, path, ['--send-proxy', 'v1']);
    const client = await connectTo(t, server);
    assert.match(await client.reply(), /^421 4\.3\.0 /);
    assert.equal(await client.rest(), '');
    client.end();
    await server.logs(/: warning: event=session .* smtpd=unix:/);
  });
});
