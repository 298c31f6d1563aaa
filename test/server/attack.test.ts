/** Behaviour of clients, networks, backends and operators that the server must survive, found by attacking it. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { connect as connectTcp, type Socket } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { findServerName } from '../../lib/tls/client-hello.ts';
import { childrenOf, descriptorsOf, isGone, targetOf, until } from '../support/processes.ts';
import { type RunningServer, type ServerSetup, startServer } from '../support/server.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';
import { listenTcp } from '../support/tcp.ts';

/** An smtpd that accepts every command. */
const YES = `printf "220 ready\\r\\n"
while read -r line; do
  case $line in
    QUIT*) printf "221 bye\\r\\n"; exit 0;;
    *) printf "250 yes\\r\\n";;
  esac
done`;
const SMTPD = ['sh', '-c', YES];
const ENDED_WELL = { code: 0, signal: null };

/** Starts a server that is stopped when the test ends. */
async function start(
  t: TestContext,
  options: readonly string[],
  smtpd: readonly string[] = SMTPD,
  setup: ServerSetup = {},
): Promise<RunningServer> {
  const server = await startServer(options, smtpd, setup);
  t.after(() => server.close());
  return server;
}

/** Connects; the connection is closed when the test ends. */
async function connect(t: TestContext, port: number): Promise<SmtpClient> {
  const client = await connectSmtp(port);
  t.after(() => client.destroy());
  return client;
}

/** Connects, and is greeted. */
async function connectGreeted(t: TestContext, port: number): Promise<SmtpClient> {
  const client = await connect(t, port);
  assert.match(await client.reply(), /^220 /);
  return client;
}

/**
 * Relays a TLS 1.3 handshake, and resets the connection right after the client's last flight, so that the server
 * reads both at once.
 */
function resetBehindHandshake(client: Socket, server: RunningServer): void {
  const onward = connectTcp(server.port, '127.0.0.1');
  onward.on('error', () => {});
  let flights = 0;
  onward.on('data', (bytes) => {
    server.signal('SIGSTOP');
    client.write(bytes);
  });
  client.on('data', (bytes) => {
    flights += 1;
    onward.write(bytes, () => {
      if (flights < 2) return;
      onward.resetAndDestroy();
      client.destroy();
      server.signal('SIGCONT');
    });
  });
}

describe('the server withstands attacks', { concurrency: 3, timeout: 60_000 }, () => {
  describe('the readiness descriptor', { concurrency: 3 }, () => {
    for (const [descriptor, what] of [
      ['1', 'stdout'],
      ['2', 'stderr'],
    ] as const) {
      it(`is not reused for a client when it is ${what}`, async (t) => {
        const { port, pid } = await start(t, ['--notify-fd', descriptor, '--proxy-protocol', '192.0.2.1']);
        // Only the end of its descriptor closes it.
        assert.equal(await (await connect(t, port)).rest(), '');
        assert.equal(targetOf(pid, Number(descriptor)), '/dev/null');
      });
    }

    it('cannot be one that Node has opened for itself', async (t) => {
      const { pid } = await start(t, []);
      const descriptors = descriptorsOf(pid);
      const targets = [...descriptors.values()];
      // It does not hold both ends of a pipe that it inherited.
      const isOwn = (target: string): boolean =>
        target === 'anon_inode:[eventpoll]' ||
        (target.startsWith('pipe:') && targets.filter((other) => other === target).length === 2);
      const own = [...descriptors].filter(([, target]) => isOwn(target)).map(([number]) => String(number));
      assert.ok(own.length > 2);
      for (const descriptor of own) {
        const server = await start(t, ['--notify-fd', descriptor]);
        assert.deepEqual(await server.ended, { code: 111, signal: null });
        assert.match(
          server.stderr(),
          /^[^\n]*unable to notify readiness on descriptor \d+: E\w+ \(not open; s6 [^\n]+\)\n$/,
        );
      }
    });
  });

  describe('a suspended worker', { concurrency: 3 }, () => {
    /** Starts two workers and suspends one; gives that one and the other. */
    async function startWithOneStopped(
      t: TestContext,
      options: readonly string[],
    ): Promise<{ server: RunningServer; stopped: number }> {
      const server = await start(t, ['--workers', '2', ...options]);
      const [stopped = 0] = childrenOf(server.pid);
      process.kill(stopped, 'SIGSTOP');
      await until('it is stopped', () =>
        /^State:\tT/m.test(readFileSync(`/proc/${stopped}/status`, 'latin1')),
      );
      return { server, stopped };
    }

    it('does not prevent shutdown', async (t) => {
      const { server, stopped } = await startWithOneStopped(t, ['--grace', '0']);
      server.signal('SIGTERM');
      assert.deepEqual(await server.ended, ENDED_WELL);
      await until('the worker is gone', () => isGone(stopped));
      const line = `smtpd-starttls-server: warning: event=worker-killed worker=${stopped}`;
      assert.equal(server.stderr(), `${line} text="did not exit in time"\n`);
    });

    it('does not prevent shutdown after a second signal, whatever the grace period', async (t) => {
      const { server } = await startWithOneStopped(t, ['--grace', '3600', '-v2']);
      server.signal('SIGTERM');
      await server.logs(/event=stopping/);
      server.signal('SIGTERM');
      assert.deepEqual(await server.ended, ENDED_WELL);
    });

    it('delays neither clients nor metrics', async (t) => {
      const { server } = await startWithOneStopped(t, []);
      for (let count = 0; count < 4; count++) {
        const client = await connectGreeted(t, server.port);
        assert.equal(await client.ask('QUIT'), '221 bye');
      }
      server.signal('SIGUSR1');
      await server.logs(/event=counters .*\n/);
    });
  });

  describe('a client', { concurrency: 3 }, () => {
    it('that resets right after the handshake releases its slot', async (t) => {
      const server = await start(t, ['--implicit-tls', '-c', '1']);
      const known = descriptorsOf(server.pid).size;
      const port = await listenTcp(t, (socket) => resetBehindHandshake(socket, server));
      const client = await connect(t, port);
      await client.shakeHands().catch(() => {});
      await until('the connection is closed', () => descriptorsOf(server.pid).size === known);
      const next = await connect(t, server.port);
      await next.shakeHands();
      assert.equal(await next.reply(), '220 ready');
    });

    it('that renegotiates repeatedly is disconnected, and others are served', async (t) => {
      const server = await start(t, []);
      const client = await connectGreeted(t, server.port);
      await client.startTls({ maxVersion: 'TLSv1.2' });
      let isOver = false;
      const closed = client
        .rest()
        .catch(() => 'reset')
        .then(() => {
          isOver = true;
        });
      for (let count = 0; count < 20 && !isOver; count++) {
        const done = new Promise((resolve) =>
          client.tls().renegotiate({ rejectUnauthorized: false }, resolve),
        );
        await Promise.race([done, closed]);
      }
      await closed;
      await connectGreeted(t, server.port);
    });

    it('that does not read does not prevent shutdown, nor does an smtpd that floods it and ignores signals', async (t) => {
      const flood = `trap "" TERM; printf "220 ready\\r\\n"
      for i in 1 2; do read -r line; printf "250 yes\\r\\n"; done
      while :; do echo 250-more; done`;
      const server = await start(t, ['--grace', '0', '-v2'], ['sh', '-c', flood]);
      const clear = await connectGreeted(t, server.port);
      const inTls = await connectGreeted(t, server.port);
      await inTls.startTls();
      for (const client of [clear, inTls]) {
        client.pause();
        client.sendLines('HELO a', 'NOOP');
      }
      const smtpds = childrenOf(server.pid);
      assert.equal(smtpds.length, 2);
      server.signal('SIGTERM');
      assert.deepEqual(await server.ended, ENDED_WELL);
      assert.ok(smtpds.every(isGone));
    });
  });

  describe('a backend', () => {
    it('that closes and stops reading leaves no descriptor open', async (t) => {
      const backends: Socket[] = [];
      const port = await listenTcp(t, (socket) => {
        backends.push(socket);
        socket.pause();
        socket.write('220 ready\r\n');
      });
      const server = await start(t, ['--to', `127.0.0.1:${port}`], []);
      const known = descriptorsOf(server.pid).size;
      const client = await connectGreeted(t, server.port);
      client.sendLines('HELO a');
      // More than all buffers on the path hold, so that some of it is queued in the server.
      for (let count = 0; count < 512; count++) client.send(Buffer.alloc(65_536, 'x\r\n'));
      const sent = (): number => client.tcp().bytesWritten - client.tcp().writableLength;
      let before = -1;
      await until('nothing moves any more', () => {
        const isStill = sent() === before && before > 0;
        before = sent();
        return isStill;
      });
      backends[0]?.end('421 enough\r\n');
      assert.match(await client.reply(), /^421 enough/);
      client.destroy();
      await until('all is closed', () => descriptorsOf(server.pid).size === known);
      assert.equal(backends[0]?.destroyed, false, 'the backend has not closed its side');
    });
  });

  describe('a ClientHello', () => {
    const HELLO_IN_PARTS = Buffer.from('16030100010116030100020000', 'hex');

    it('that contains an empty record is rejected', () => {
      assert.equal(findServerName(HELLO_IN_PARTS), undefined, 'more may come');
      assert.equal(findServerName(Buffer.concat([HELLO_IN_PARTS, Buffer.from('1603010000', 'hex')])), '');
    });
  });

  describe('a command line', () => {
    it('with an empty smtpd command is refused', async (t) => {
      await assert.rejects(start(t, [], ['']), /with 100: [^\n]*usage error: missing smtpd command\n/);
    });
  });
});
