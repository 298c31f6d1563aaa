/** What signals do to the server and its sessions. */

import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { childrenOf, isGone, until } from '../support/processes.ts';
import { type RunningServer, type ServerSetup, startServer } from '../support/server.ts';
import { certificate } from '../support/shim.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';

/** An smtpd that accepts every command. */
const YES = `printf "220 ready\\r\\n"
while read -r line; do
  case $line in
    QUIT*) printf "221 bye\\r\\n"; exit 0;;
    *) printf "250 yes\\r\\n";;
  esac
done`;
const SMTPD = ['sh', '-c', YES];
const SHUTDOWN = '421 4.3.2 Mail server shutting down, please try again later';
const ENDED_WELL = { code: 0, signal: null };

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

/** Connects; the connection is closed when the test ends. */
async function connect(t: TestContext, port: number): Promise<SmtpClient> {
  const client = await connectSmtp(port);
  t.after(() => client.destroy());
  return client;
}

/** Connects and is greeted. */
async function connectGreeted(t: TestContext, port: number): Promise<SmtpClient> {
  const client = await connect(t, port);
  assert.equal(await client.reply(), '220 ready');
  return client;
}

/** Settles when connections are refused. */
async function refuses(port: number): Promise<void> {
  for (let tries = 0; tries < 500; tries++) {
    try {
      (await connectSmtp(port)).destroy();
    } catch {
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`there is still somebody on port ${port}`);
}

for (const workers of ['1', '2']) {
  describe(`SIGTERM with ${workers}`, { concurrency: 2 }, () => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      it(`(${signal}) ends an idle server`, async (t) => {
        const server = await start(t, ['--workers', workers, '-v2']);
        server.signal(signal);
        assert.deepEqual(await server.ended, ENDED_WELL);
        assert.match(server.stderr(), new RegExp(`info: event=stopping signal=${signal}\n$`));
      });
    }

    it('lets sessions continue and accepts no new ones', async (t) => {
      const server = await start(t, ['--workers', workers]);
      const [plain, secure, early] = [
        await connectGreeted(t, server.port),
        await connectGreeted(t, server.port),
        await connectGreeted(t, server.port),
      ];
      assert.equal(await plain.ask('MAIL FROM:<>'), '250 yes');
      await secure.startTls();
      server.signal('SIGTERM');
      await refuses(server.port);
      assert.equal(await plain.ask('RCPT TO:<me>'), '250 yes');
      assert.equal(await secure.ask('MAIL FROM:<>'), '250 yes');
      await early.startTls();
      for (const client of [plain, secure, early]) {
        assert.equal(await client.ask('QUIT'), '221 bye');
        assert.equal(await client.rest(), '');
        client.destroy();
      }
      assert.deepEqual(await server.ended, ENDED_WELL);
      // The connections with which this test has checked whether the server listens.
      const others = server.stderr().replaceAll(/.*event=refused .*why=stopping\n/g, '');
      assert.equal(others, '');
    });

    it('ends them after the grace period', async (t) => {
      const server = await start(t, ['--workers', workers, '--grace', '1']);
      const [dialogue, plain, secure] = [
        await connectGreeted(t, server.port),
        await connectGreeted(t, server.port),
        await connectGreeted(t, server.port),
      ];
      assert.equal(await plain.ask('MAIL FROM:<>'), '250 yes');
      await secure.startTls();
      assert.equal(await secure.ask('EHLO me'), '250 yes');
      server.signal('SIGTERM');
      for (const client of [dialogue, plain, secure]) {
        assert.equal(await client.rest(), `${SHUTDOWN}\r\n`);
        client.destroy();
      }
      assert.deepEqual(await server.ended, ENDED_WELL);
    });

    for (const grace of ['0', '600']) {
      it(`ends them at once ${grace === '0' ? 'without grace' : 'when it comes again'}`, async (t) => {
        const server = await start(t, ['--workers', workers, '--grace', grace]);
        const client = await connectGreeted(t, server.port);
        assert.equal(await client.ask('MAIL FROM:<>'), '250 yes');
        server.signal('SIGTERM');
        await refuses(server.port);
        if (grace !== '0') server.signal('SIGTERM');
        assert.equal(await client.rest(), `${SHUTDOWN}\r\n`);
        client.destroy();
        assert.deepEqual(await server.ended, ENDED_WELL);
      });
    }

    it('closes waiting connections', async (t) => {
      const server = await start(t, ['--workers', workers, '-c', '1']);
      const first = await connectGreeted(t, server.port);
      const second = await connect(t, server.port);
      server.signal('SIGUSR1');
      await until('one waits', () => {
        server.signal('SIGUSR1');
        return / waiting=1 /.test(server.stderr());
      });
      server.signal('SIGTERM');
      assert.equal(await second.rest(), `${SHUTDOWN}\r\n`);
      second.destroy();
      assert.equal(await first.ask('QUIT'), '221 bye');
      first.destroy();
      assert.deepEqual(await server.ended, ENDED_WELL);
    });

    it('ends an idle handshake after the grace period', async (t) => {
      const server = await start(t, ['--workers', workers, '--grace', '0']);
      const client = await connectGreeted(t, server.port);
      assert.match(await client.ask('STARTTLS'), /^220 /);
      server.signal('SIGTERM');
      assert.equal(await client.rest(), '');
      client.destroy();
      assert.deepEqual(await server.ended, ENDED_WELL);
    });

    it('works when sent to the whole process group', async (t) => {
      const server = await start(t, ['--workers', workers], { detached: true });
      const client = await connectGreeted(t, server.port);
      assert.equal(await client.ask('MAIL FROM:<>'), '250 yes');
      // As a terminal does for Ctrl-C. sh handles the signal only after it has read a line.
      const smtpd = childrenOf(server.pid);
      process.kill(-server.pid, 'SIGINT');
      await refuses(server.port);
      client.destroy();
      assert.deepEqual(await server.ended, ENDED_WELL);
      await until('nothing is left', () => smtpd.every(isGone));
    });

    it('ends an smtpd that ignores SIGTERM', async (t) => {
      const server = await startServer(
        ['--workers', workers, '--grace', '0'],
        ['sh', '-c', `trap "" TERM; ${YES}; sleep 60`],
      );
      t.after(() => server.close());
      const client = await connectGreeted(t, server.port);
      assert.equal(await client.ask('MAIL FROM:<>'), '250 yes');
      server.signal('SIGTERM');
      assert.match(await client.rest(), /^421 4\.3\.[02] /);
      client.destroy();
      assert.deepEqual(await server.ended, ENDED_WELL);
    });
  });

  describe(`SIGHUP with ${workers}`, { concurrency: 2 }, () => {
    it('loads new certificates, and rejects invalid ones', async (t) => {
      const folder = mkdtempSync(join(tmpdir(), 'renewal-'));
      const maker = makeCertificates();
      t.after(() => {
        rmSync(folder, { recursive: true });
        maker.remove();
      });
      const files = { CERTFILE: join(folder, 'cert.pem'), KEYFILE: join(folder, 'key.pem') };
      const put = (pair: { certFile: string; keyFile: string }): void => {
        copyFileSync(pair.certFile, files.CERTFILE);
        copyFileSync(pair.keyFile, files.KEYFILE);
      };
      put(certificate());
      const server = await start(t, ['--workers', workers, '-v2'], { environment: files });
      const shown = async (): Promise<unknown> => {
        const client = await connectGreeted(t, server.port);
        await client.startTls();
        const { subject } = client.tls().getPeerCertificate();
        assert.equal(await client.ask('QUIT'), '221 bye');
        client.destroy();
        return subject.CN;
      };
      const old = await connectGreeted(t, server.port);
      await old.startTls();
      assert.equal(await shown(), 'mail.example.org');

      writeFileSync(files.CERTFILE, 'no certificate');
      server.signal('SIGHUP');
      await server.logs(/warning: event=secrets text="[^"]*; keeping the previous keys and certificates"/);
      assert.equal(await shown(), 'mail.example.org');

      put(maker.selfSigned('new.example.org'));
      server.signal('SIGHUP');
      await server.logs(/info: event=secrets text="loaded new keys and certificates"/);
      let name: unknown;
      // Every worker receives its own message.
      for (let tries = 0; tries < 100 && name !== 'new.example.org'; tries++) name = await shown();
      assert.equal(name, 'new.example.org');
      assert.equal(await old.ask('QUIT'), '221 bye');
      old.destroy();
      server.signal('SIGTERM');
      assert.deepEqual(await server.ended, ENDED_WELL);
    });
  });

  describe(`SIGUSR1 with ${workers}`, () => {
    for (const options of [['-q'], [], ['-v3']]) {
      it(`logs one line, and starts no debugger (${options.join('') || 'default level'})`, async (t) => {
        const server = await start(t, ['--workers', workers, ...options]);
        const client = await connectGreeted(t, server.port);
        await client.startTls();
        // A client completes the handshake before the server does.
        assert.equal(await client.ask('NOOP'), '250 yes');
        server.signal('SIGUSR1');
        await server.logs(/event=counters/);
        for (const pid of workersOf(server)) process.kill(pid, 'SIGUSR1');
        assert.equal(await client.ask('QUIT'), '221 bye');
        client.destroy();
        await until('the end of the session is counted', () => {
          server.signal('SIGUSR1');
          return / smtpd_exits=1 /.test(server.stderr());
        });
        server.signal('SIGTERM');
        assert.deepEqual(await server.ended, ENDED_WELL);
        const stderr = server.stderr();
        assert.doesNotMatch(stderr, /debugger/i);
        const [first = ''] = stderr.split('\n').filter((line) => line.includes('event=counters'));
        assert.match(
          first,
          /^smtpd-starttls-server: info: event=counters accepted=1 refused=0 open=1 waiting=0 plaintext=0 tls=1 close=0 error_limit_reached=0 early_talkers=0 handshakes=1 /,
        );
      });
    }
  });
}

/** The processes of the server except the first; none without workers. Some may be smtpds. */
function workersOf(server: RunningServer): number[] {
  return childrenOf(server.pid).filter((pid) =>
    readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('smtpd-starttls-server'),
  );
}

describe('signals in quick succession', { concurrency: 2 }, () => {
  for (const workers of ['1', '2']) {
    for (const signal of ['SIGTERM', 'SIGHUP', 'SIGUSR1'] as const) {
      it(`${signal} as soon as it listens, with ${workers}`, async (t) => {
        const server = await start(t, ['--workers', workers]);
        server.signal(signal);
        if (signal !== 'SIGTERM') {
          (await connectGreeted(t, server.port)).destroy();
          server.signal('SIGTERM');
        }
        assert.deepEqual(await server.ended, ENDED_WELL);
      });
    }
  }
});
