/** Where the server listens, and how it announces readiness. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import { missing } from '../support/programs.ts';
import { certificateForAll, type RunningServer, type ServerSetup, startServer } from '../support/server.ts';
import { connectSmtp } from '../support/smtp-client.ts';
import { closedPort } from '../support/tcp.ts';

const SMTPD = ['sh', '-c', 'printf "220 ready\\r\\n"; read -r line; printf "221 bye\\r\\n"'];
const IS_ROOT = process.getuid?.() === 0;
const IN_USE = String.raw`\(another process listens there: ss -ltnp\)`;

/** Whether the system reserves ports below 1024 for root. Containers may not. */
function arePortsReserved(): boolean {
  return Number(readFileSync('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'latin1')) === 1024;
}

/** Starts a server that is stopped when the test ends. */
async function start(
  t: TestContext,
  options: readonly string[],
  setup: ServerSetup = {},
): Promise<RunningServer> {
  const server = await startServer(options, SMTPD, setup);
  t.after(() => server.close());
  return server;
}

/** Asserts that a server answers on a port. */
async function assertServes(port: number, host = '127.0.0.1'): Promise<void> {
  const client = await connectSmtp(port, { host });
  assert.equal(await client.reply(), '220 ready', `${host} port ${port}`);
  assert.equal(await client.ask('QUIT'), '221 bye', `${host} port ${port}`);
  client.destroy();
}

/** A listening socket for another process: this one will not accept from it. */
async function bind(
  t: TestContext,
  host = '127.0.0.1',
): Promise<{ port: number; descriptor: number; close(): void }> {
  const server: Server = createServer(() => assert.fail('the test itself has taken the connection'));
  await new Promise<void>((resolve) => server.listen(0, host, resolve));
  t.after(() => server.close());
  const address = server.address();
  assert.ok(typeof address === 'object' && address !== null);
  // The types of Node do not declare its descriptor.
  const handle: unknown = Reflect.get(server, '_handle');
  assert.ok(typeof handle === 'object' && handle !== null && 'fd' in handle && typeof handle.fd === 'number');
  return { port: address.port, descriptor: handle.fd, close: () => server.close() };
}

describe('a host', { concurrency: 2 }, () => {
  for (const [host, reached] of [
    ['127.0.0.1', ['127.0.0.1']],
    ['0', ['127.0.0.1', '127.0.0.2']],
    ['::', ['127.0.0.1', '::1']],
    ['::1', ['::1']],
    ['localhost', ['localhost']],
  ] as const) {
    it(`may be ${host}`, async (t) => {
      const { port } = await start(t, [], { listen: [host, '0'] });
      assert.notEqual(port, 0);
      for (const one of reached) await assertServes(port, one);
    });
  }

  it('that is 0 is reachable over IPv4 only', async (t) => {
    const { port } = await start(t, [], { listen: ['0', '0'] });
    await assert.rejects(connectSmtp(port, { host: '::1' }), /ECONNREFUSED/);
  });

  it('that cannot be resolved is refused', async () => {
    await assert.rejects(
      startServer([], SMTPD, { listen: ['no.such.host.invalid', '0'] }),
      /ended with 111: smtpd-starttls-server: fatal: unable to listen on no\.such\.host\.invalid port 0: E\w+(?: \([^\n]+\))?\n$/,
    );
  });

  it('that is not of this machine is refused', async () => {
    await assert.rejects(
      startServer([], SMTPD, { listen: ['192.0.2.1', '0'] }),
      /ended with 111: smtpd-starttls-server: fatal: unable to listen on 192\.0\.2\.1 port 0: EADDRNOTAVAIL \(no interface has this address: ip address\)\n$/,
    );
  });
});

describe('a port', { concurrency: 2 }, () => {
  it('may be a number', async (t) => {
    const free = await closedPort();
    const { port } = await start(t, [], { listen: ['127.0.0.1', String(free)] });
    assert.equal(port, free);
    await assertServes(free);
  });

  it('may be the name of a service', { skip: IS_ROOT ? false : 'needs root' }, async (t) => {
    const { port } = await start(t, [], { listen: ['127.5.4.3', 'lmtp'] });
    assert.equal(port, 24);
    await assertServes(24, '127.5.4.3');
  });

  for (const workers of [1, 2]) {
    it(`that is reserved for root ends it, and the message has the remedy, with ${workers} workers`, {
      skip: IS_ROOT && arePortsReserved() ? missing('setpriv') : 'needs root, and ports for root only',
    }, async () => {
      await assert.rejects(
        startServer(['--workers', String(workers)], SMTPD, {
          listen: ['127.0.0.1', '1023'],
          under: ['setpriv', '--bounding-set=-net_bind_service', '--inh-caps=-net_bind_service', '--'],
        }),
        /unable to listen on 127\.0\.0\.1 port 1023: EACCES \(ports below 1024 are for root: [^\n]+ CAP_NET_BIND_SERVICE\)\n$/,
      );
    });

    it(`that is taken ends ${workers === 1 ? 'it' : 'it with all its workers'}`, async (t) => {
      const { port } = await start(t, []);
      await assert.rejects(
        startServer(['--workers', String(workers)], SMTPD, { listen: ['127.0.0.1', String(port)] }),
        // A worker may notice that the primary has exited before it tries to listen.
        new RegExp(
          `ended with 111: smtpd-starttls-server: fatal: unable to listen on 127.0.0.1 port ${port}: EADDRINUSE ${IN_USE}\n` +
            '(?:\\S+ (?:fatal: unable to listen on .*|warning: event=primary-gone)\n)?$',
        ),
      );
      await assertServes(port);
    });
  }

  it('can be reused as soon as the server has exited', async (t) => {
    const first = await start(t, [], { listen: ['127.0.0.1', String(await closedPort())] });
    const client = await connectSmtp(first.port);
    await client.reply();
    first.signal('SIGTERM');
    await client.ask('QUIT');
    client.destroy();
    assert.deepEqual(await first.ended, { code: 0, signal: null });
    await start(t, [], { listen: ['127.0.0.1', String(first.port)] });
    await assertServes(first.port);
  });
});

describe('several listeners', { concurrency: 2 }, () => {
  for (const workers of ['1', '2']) {
    it(`are served and printed in order by ${workers}`, async (t) => {
      const given = await closedPort();
      const { ports } = await start(t, [
        ...['--workers', workers],
        ...['--listen', '127.0.0.1:0', '--listen', `127.0.0.2:${given}`, '--listen=[::1]:0'],
      ]);
      assert.equal(ports.length, 4);
      assert.equal(ports[2], given);
      // The system may choose the same number for two addresses.
      assert.notEqual(ports[0], ports[1]);
      const hosts = ['127.0.0.1', '127.0.0.1', '127.0.0.2', '::1'];
      for (const [index, port] of ports.entries()) await assertServes(port, hosts[index]);
    });
  }

  it('are all closed when one cannot listen', async (t) => {
    const { port } = await start(t, []);
    await assert.rejects(
      startServer(['--listen', `127.0.0.1:${port}`], SMTPD),
      new RegExp(
        `ended with 111: smtpd-starttls-server: fatal: unable to listen on 127.0.0.1 port \\d+: EADDRINUSE ${IN_USE}\n$`,
      ),
    );
  });
});

describe('a listening socket on descriptor 0', { concurrency: 2 }, () => {
  for (const workers of ['1', '2']) {
    it(`is served by ${workers}`, async (t) => {
      const socket = await bind(t);
      const server = await start(t, ['--workers', workers], { listen: ['-'], stdin: socket.descriptor });
      socket.close();
      assert.deepEqual(server.ports, [socket.port]);
      for (let count = 0; count < 3; count++) await assertServes(socket.port);
    });
  }

  it('stays open after the server exits, for the next one', async (t) => {
    const socket = await bind(t);
    const setup = { listen: ['-'], stdin: socket.descriptor };
    const first = await start(t, [], setup);
    const second = await start(t, [], setup);
    socket.close();
    first.signal('SIGTERM');
    assert.deepEqual(await first.ended, { code: 0, signal: null });
    for (let count = 0; count < 3; count++) await assertServes(socket.port);
    assert.equal(second.stderr(), '');
  });

  it('is served under s6-applyuidgid', {
    skip: missing('s6-applyuidgid') || (IS_ROOT ? false : 'needs root'),
  }, async (t) => {
    const socket = await bind(t);
    await start(t, [], {
      listen: ['-'],
      stdin: socket.descriptor,
      under: ['s6-applyuidgid', '-Uz'],
      environment: {
        UID: '65534',
        GID: '65534',
        GIDLIST: '65534',
        // That of the other tests is readable only by root.
        ...certificateForAll(t),
      },
    });
    socket.close();
    await assertServes(socket.port);
  });

  for (const [what, stdin] of [
    ['nothing', 'ignore'],
    ['a pipe of Node, which is a socket that does not listen', 'pipe'],
  ] as const) {
    it(`that is ${what} is refused`, async () => {
      await assert.rejects(
        startServer([], SMTPD, { listen: ['-'], stdin }),
        /ended with 1(?:00|11): smtpd-starttls-server: fatal: [^\n]*descriptor 0[^\n]*\n$/,
      );
    });
  }
});

describe('a low limit on descriptors', { concurrency: 2, skip: missing('prlimit') }, () => {
  it('that leaves none for a session ends the server, and the message has the remedy', async () => {
    await assert.rejects(
      startServer([], SMTPD, { under: ['prlimit', '--nofile=200'] }),
      /ended with 111: .*: fatal: unable to start: descriptor limit too low: 200 \(raise ulimit -n, or LimitNOFILE= of systemd\)\n$/,
    );
  });

  it('lowers the number of connections, with a warning that has the remedy', async (t) => {
    const server = await start(t, [], { under: ['prlimit', '--nofile=1024'] });
    assert.match(
      server.stderr(),
      /: warning: event=limits text="400 concurrent connections would need \d+ descriptors: raise ulimit -n, or LimitNOFILE= of systemd" descriptors=1024 connections=\d+\n/,
    );
  });
});

describe('sockets from systemd', { concurrency: 2 }, () => {
  /** Sets LISTEN_PID, which only the process itself can do. */
  const addressed = ['sh', '-c', 'LISTEN_PID=$$ exec "$@"', 'sh'];

  for (const workers of ['1', '2']) {
    it(`are served by ${workers}, the one on descriptor 0 is not`, async (t) => {
      const [unused, first, second] = [await bind(t), await bind(t), await bind(t, '::1')];
      const server = await start(t, ['--workers', workers, '-v2'], {
        listen: ['-'],
        stdin: unused.descriptor,
        descriptors: [first.descriptor, second.descriptor],
        under: addressed,
        environment: { LISTEN_FDS: '2', LISTEN_FDNAMES: 'smtp:smtp6' },
      });
      for (const socket of [unused, first, second]) socket.close();
      assert.deepEqual(server.ports, [first.port, second.port]);
      await assertServes(first.port);
      await assertServes(second.port, '::1');
    });
  }

  it('for another process are ignored', async (t) => {
    const [mine, others] = [await bind(t), await bind(t)];
    const server = await start(t, [], {
      listen: ['-'],
      stdin: mine.descriptor,
      descriptors: [others.descriptor],
      environment: { LISTEN_FDS: '1', LISTEN_PID: '1' },
    });
    mine.close();
    assert.deepEqual(server.ports, [mine.port]);
  });

  for (const [count, why] of [
    ['0', 'LISTEN_FDS must be a number from 1 to 64, not 0'],
    ['65', 'LISTEN_FDS must be a number from 1 to 64, not 65'],
    ['two', 'LISTEN_FDS must be a number from 1 to 64, not two'],
    ['2', 'descriptor 4 is not a listening socket'],
  ] as const) {
    it(`announced as ${count} when there is one are refused`, async (t) => {
      const socket = await bind(t);
      await assert.rejects(
        startServer([], SMTPD, {
          listen: ['-'],
          descriptors: [socket.descriptor],
          under: addressed,
          environment: { LISTEN_FDS: count },
        }),
        new RegExp(`ended with 100: smtpd-starttls-server: fatal: usage error: ${why}\n$`),
      );
    });
  }

  it('for another process are named if there is no other socket', async (t) => {
    const socket = await bind(t);
    await assert.rejects(
      startServer([], SMTPD, {
        listen: ['-'],
        descriptors: [socket.descriptor],
        // Without exec, as in a script that systemd starts.
        under: ['sh', '-c', 'LISTEN_PID=$$ "$@"; exit $?', 'sh'],
        environment: { LISTEN_FDS: '1' },
      }),
      /ended with 100: .* descriptor 0 is not a listening socket, and LISTEN_PID is not this process: start it by exec\n$/,
    );
  });

  it('are served under systemd-socket-activate', { skip: missing('systemd-socket-activate') }, async (t) => {
    const port = await closedPort();
    // It starts the server on the first connection.
    const under = ['systemd-socket-activate', '-l', `127.0.0.1:${port}`, '--fdname=smtp'];
    const starting = startServer([], SMTPD, {
      listen: ['-'],
      under: [...under, '-ECERTFILE', '-EKEYFILE', '-EPATH'],
    });
    starting.catch(() => {});
    t.after(async () => (await starting).close());
    const client = await connectWithRetries(port);
    assert.equal(await client.reply(), '220 ready');
    client.destroy();
    assert.deepEqual((await starting).ports, [port]);
    await assertServes(port);
  });
});

/** Connects, and retries until something listens. */
async function connectWithRetries(port: number): ReturnType<typeof connectSmtp> {
  for (let tries = 0; tries < 500; tries++) {
    try {
      return await connectSmtp(port);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  throw new Error(`nothing listens on ${port}`);
}

describe('readiness', { concurrency: 2 }, () => {
  for (const workers of ['1', '2']) {
    it(`of ${workers} is a newline on a descriptor, which is then closed`, async (t) => {
      const child = spawn('cat', [], { stdio: ['pipe', 'pipe', 'inherit'] });
      t.after(() => child.kill('SIGKILL'));
      await start(t, ['--workers', workers, '--notify-fd', '3'], { descriptors: [child.stdin] });
      child.stdin.destroy();
      assert.equal(await textOf(child.stdout), '\n');
    });
  }

  it('can be the descriptor of stdout', async (t) => {
    const { port } = await start(t, ['--notify-fd', '1']).catch(() => assert.fail('not ready'));
    await assertServes(port);
  });

  it('that cannot be announced ends the server', async (t) => {
    const server = await start(t, ['--notify-fd', '97']);
    assert.deepEqual(await server.ended, { code: 111, signal: null });
    const why =
      'unable to notify readiness on descriptor 97: EBADF (not open; s6 opens the number that is in notification-fd)';
    assert.equal(server.stderr(), `smtpd-starttls-server: fatal: ${why}\n`);
  });

  it('is announced to systemd', { skip: missing('systemd-notify', 'python3') }, async (t) => {
    const { path, datagrams } = await listenForDatagrams(t);
    const server = await start(t, [], { environment: { NOTIFY_SOCKET: path } });
    const words = (await datagrams).split('\n');
    assert.ok(words.includes('READY=1'), words.join());
    assert.ok(words.includes(`MAINPID=${server.pid}`), words.join());
  });

  it('is announced to systemd by a server with workers', {
    skip: missing('systemd-notify', 'python3'),
  }, async (t) => {
    const { path, datagrams } = await listenForDatagrams(t);
    const server = await start(t, ['--workers', '2'], { environment: { NOTIFY_SOCKET: path } });
    assert.ok((await datagrams).split('\n').includes(`MAINPID=${server.pid}`));
  });

  it('that cannot be announced to systemd is a warning', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'path-'));
    t.after(() => rmSync(folder, { recursive: true }));
    symlinkSync(process.execPath, join(folder, 'node'));
    symlinkSync('/bin/sh', join(folder, 'sh'));
    const server = await start(t, [], { environment: { NOTIFY_SOCKET: '/nowhere', PATH: folder } });
    await server.logs(
      /warning: event=notify text="unable to run systemd-notify: ENOENT \(no such program: [^\n]+\)"\n/,
    );
    await assertServes(server.port);
  });
});

/** Listens on a datagram socket, which Node cannot do. Settles with the first datagram. */
async function listenForDatagrams(t: TestContext): Promise<{ path: string; datagrams: Promise<string> }> {
  const folder = mkdtempSync(join(tmpdir(), 'notify-'));
  const path = join(folder, 'socket');
  const program = [
    'import socket, sys',
    's = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)',
    's.bind(sys.argv[1])',
    'print("bound", flush=True)',
    's.settimeout(30)',
    'sys.stdout.write(s.recv(4096).decode())',
  ].join('\n');
  const child = spawn('python3', ['-c', program, path], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => {
    child.kill('SIGKILL');
    rmSync(folder, { recursive: true });
  });
  await once(child.stdout, 'data');
  return { path, datagrams: textOf(child.stdout) };
}

async function textOf(stream: Readable): Promise<string> {
  let text = '';
  for await (const bytes of stream) text += bytes;
  return text;
}
