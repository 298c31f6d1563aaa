/** Several processes on one socket: which serve, and what happens when one exits. */

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { childrenOf, until } from '../support/processes.ts';
import { fixture, missing } from '../support/programs.ts';
import { isDead, type RunningServer, startServer } from '../support/server.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';
import { closedPort } from '../support/tcp.ts';
import { DEADLINE, within } from '../support/within.ts';

/** An smtpd that names its parent and accepts every command. */
const YES = `printf "220 $PPID\\r\\n"
while read -r line; do
  case $line in
    QUIT*) printf "221 bye\\r\\n"; exit 0;;
    *) printf "250 yes\\r\\n";;
  esac
done`;
const SMTPD = ['sh', '-c', YES];
const ENDED_WELL = { code: 0, signal: null };

/** Starts a server that is stopped when the test ends. */
async function start(t: TestContext, ...options: string[]): Promise<RunningServer> {
  const server = await startServer(['--workers', '2', ...options], SMTPD);
  t.after(() => server.close());
  return server;
}

/** A client that is served. */
interface Session {
  readonly client: SmtpClient;
  /** The process that serves it. */
  readonly worker: number;
}

/** Connects and is greeted. */
async function connectGreeted(t: TestContext, port: number): Promise<Session> {
  const client = await connectSmtp(port);
  t.after(() => client.destroy());
  const greeting = await within(DEADLINE, 'greeting', client.reply());
  return { client, worker: Number(greeting.slice(4)) };
}

/** Connects until each of so many processes serves a client. */
async function connectToAll(t: TestContext, port: number, workers: number): Promise<readonly Session[]> {
  const sessions: Session[] = [];
  for (let tries = 0; new Set(sessions.map((one) => one.worker)).size < workers; tries++) {
    assert.ok(tries < 500, `only ${new Set(sessions.map((one) => one.worker)).size} of ${workers} serve`);
    // Any idle worker accepts it, and one may be fast enough to accept all that arrive one by one.
    sessions.push(
      ...(await Promise.all([connectGreeted(t, port), connectGreeted(t, port), connectGreeted(t, port)])),
    );
    while (sessions.length > 30) sessions.shift()?.client.destroy();
  }
  return sessions;
}

/** Settles when stderr matches. */
function logs(server: RunningServer, pattern: RegExp): Promise<void> {
  return within(DEADLINE, () => `${pattern} in ${server.stderr()}`, server.logs(pattern));
}

/** Settles when the server has exited. */
function ended(server: RunningServer): RunningServer['ended'] {
  return within(DEADLINE, 'end of the server', server.ended);
}

/** Settles when the server has logged that so many times. */
async function logsTimes(server: RunningServer, what: string, times: number): Promise<void> {
  await until(`${times} times ${what}`, () => server.stderr().split(what).length > times, DEADLINE);
}

/** Settles when a process has exited, or is a zombie. */
async function ends(pid: number): Promise<void> {
  await until(`${pid} ends`, () => isDead(pid));
}

describe('two workers', { concurrency: 2 }, () => {
  it('both serve connections, and the primary serves none', async (t) => {
    const server = await start(t);
    const sessions = await connectToAll(t, server.port, 2);
    const workers = new Set(sessions.map((one) => one.worker));
    assert.deepEqual([...workers].toSorted(), childrenOf(server.pid).toSorted());
  });

  it('are not started for --workers 1, except one to run as another user', async (t) => {
    const alone = await startServer([], SMTPD);
    t.after(() => alone.close());
    assert.equal((await connectGreeted(t, alone.port)).worker, alone.pid);
  });

  it('resume TLS sessions of each other', async (t) => {
    const server = await start(t);
    const options = { maxVersion: 'TLSv1.2' } as const;
    const first = await connectGreeted(t, server.port);
    await first.client.startTls(options);
    const session = first.client.tls().getSession();
    assert.ok(session !== undefined);
    for (const { client } of await connectToAll(t, server.port, 2)) {
      await client.startTls({ ...options, session });
      assert.equal(client.tls().isSessionReused(), true);
    }
  });
});

describe('the environment of a worker', () => {
  it('has no variables of systemd, and none for Node', async (t) => {
    const environment = { LISTEN_FDNAMES: 'one', WATCHDOG_USEC: '1', OURS: 'kept' };
    const server = await startServer(['--workers', '2'], SMTPD, { environment });
    t.after(() => server.close());
    const [worker = 0] = childrenOf(server.pid);
    const names = environmentOf(worker).map((variable) => variable.replace(/=.*/s, ''));
    const own = environmentOf(process.pid).map((variable) => variable.replace(/=.*/s, ''));
    const strange = names.filter((name) => /^(?:NODE_|LISTEN_|NOTIFY_|WATCHDOG_)/.test(name));
    assert.deepEqual(
      strange.filter((name) => !own.includes(name)),
      [],
    );
    assert.ok(names.includes('OURS'));
  });
});

function environmentOf(pid: number): string[] {
  return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0');
}

describe('a worker that is killed', { concurrency: 2 }, () => {
  it('is replaced, and the others keep serving', async (t) => {
    const server = await start(t, '-v2');
    const sessions = await connectToAll(t, server.port, 2);
    const [victim = 0, other = 0] = childrenOf(server.pid);
    process.kill(victim, 'SIGKILL');
    await logs(server, new RegExp(`warning: event=worker-ended worker=${victim} end=SIGKILL\n`));
    for (const { client, worker } of sessions) {
      if (worker === other) assert.equal(await client.ask('QUIT'), '221 bye');
      client.destroy();
    }
    await logsTimes(server, 'event=worker-ready', 3);
    const later = new Set((await connectToAll(t, server.port, 2)).map((one) => one.worker));
    assert.ok(later.has(other) && !later.has(victim));
    server.signal('SIGTERM');
    server.signal('SIGTERM');
  });

  it('releases its slots', async (t) => {
    const server = await start(t, '-c', '2', '-b', '1');
    const [first, second] = [await connectGreeted(t, server.port), await connectGreeted(t, server.port)];
    const waiting = connectSmtp(server.port);
    process.kill(first.worker, 'SIGKILL');
    // The slot is in another process, or is released when that one exits; until then the client waits.
    const third = await waiting;
    t.after(() => third.destroy());
    const greeting = await third.reply().catch(() => undefined);
    if (second.worker !== first.worker) second.client.destroy();
    const fourth = await connectWhenServed(t, server.port);
    const fifth = greeting === undefined ? await connectWhenServed(t, server.port) : undefined;
    for (const { client } of [fourth, ...(fifth === undefined ? [] : [fifth])]) {
      assert.equal(await client.ask('QUIT'), '221 bye');
    }
  });

  it('stays counted in the metrics', async (t) => {
    const server = await start(t);
    const { client, worker } = await connectGreeted(t, server.port);
    await client.startTls();
    // A client completes the handshake before the server does.
    assert.equal(await client.ask('NOOP'), '250 yes');
    server.signal('SIGUSR1');
    await logs(server, /event=counters accepted=1 .* handshakes=1 /);
    process.kill(worker, 'SIGKILL');
    await logs(server, /worker-ended/);
    await until('it is not open any more', () => {
      server.signal('SIGUSR1');
      return /event=counters accepted=1 .* open=0 .* handshakes=1 /.test(server.stderr());
    });
  });

  it('is replaced once descriptors are available again', { skip: missing('prlimit') }, async (t) => {
    const server = await start(t, '-v2');
    const limit = descriptorLimitOf(server.pid);
    execFileSync('prlimit', ['--pid', String(server.pid), '--nofile=3:']);
    const [worker = 0] = childrenOf(server.pid);
    process.kill(worker, 'SIGKILL');
    await logs(server, /warning: event=worker-ended end=EMFILE\n/);
    execFileSync('prlimit', ['--pid', String(server.pid), `--nofile=${limit}:`]);
    await logsTimes(server, 'event=worker-ready', 3);
    await connectToAll(t, server.port, 2);
  });

  it('is not replaced during shutdown', async (t) => {
    const server = await start(t);
    const { client, worker } = await connectGreeted(t, server.port);
    server.signal('SIGTERM');
    await until('the other has ended', () => childrenOf(server.pid).length === 1);
    process.kill(worker, 'SIGKILL');
    client.destroy();
    assert.deepEqual(await ended(server), ENDED_WELL);
    assert.equal(server.stderr(), '');
  });
});

/** How many descriptors a process may have. */
function descriptorLimitOf(pid: number): string {
  const limits = readFileSync(`/proc/${pid}/limits`, 'latin1');
  return /^Max open files\s+(\d+)/m.exec(limits)?.[1] ?? '';
}

/** Connects until it is greeted: a connection may be accepted by a process that is about to exit. */
async function connectWhenServed(t: TestContext, port: number): Promise<Session> {
  for (let tries = 0; tries < 100; tries++) {
    try {
      return await connectGreeted(t, port);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  throw new Error('timed out: no worker serves');
}

describe('workers that are all killed at once', { concurrency: 2 }, () => {
  for (const what of ['that was given', 'that the system has chosen']) {
    it(`are replaced, on the port ${what}`, async (t) => {
      const given = what === 'that was given' ? await closedPort() : 0;
      const listen = ['127.0.0.1', String(given)];
      const server = await startServer(['--workers', '2', '-v2'], SMTPD, { listen });
      t.after(() => server.close());
      for (const worker of childrenOf(server.pid)) process.kill(worker, 'SIGKILL');
      await logsTimes(server, 'event=worker-ended', 2);
      await logsTimes(server, 'event=worker-ready', 4);
      await connectToAll(t, server.port, 2);
    });
  }

  it('are replaced on a socket inherited from systemd', async (t) => {
    const listener = createServer();
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
    t.after(() => listener.close());
    // The types of Node do not declare its descriptor.
    const handle: unknown = Reflect.get(listener, '_handle');
    assert.ok(
      typeof handle === 'object' && handle !== null && 'fd' in handle && typeof handle.fd === 'number',
    );
    const fromSystemd = {
      listen: ['-'],
      descriptors: [handle.fd],
      under: ['sh', '-c', 'LISTEN_PID=$$ exec "$@"', 'sh'],
      environment: { LISTEN_FDS: '1' },
    };
    const server = await startServer(['--workers', '2', '-v2'], SMTPD, fromSystemd);
    t.after(() => server.close());
    listener.close();
    for (const worker of childrenOf(server.pid)) process.kill(worker, 'SIGKILL');
    await logsTimes(server, 'event=worker-ready', 4);
    await connectToAll(t, server.port, 2);
  });

  it('leave connections in the backlog until one is replaced', async (t) => {
    const mark = makeMark(t);
    const server = await startMortal(t, mark);
    mark.set();
    killWorkers(server);
    await logsTimes(server, 'event=worker-ended', 1);
    const waiting = await connectSmtp(server.port);
    t.after(() => waiting.destroy());
    mark.remove();
    assert.match(await waiting.reply(), /^220 /);
  });

  it('are replaced each time, when killed repeatedly', async (t) => {
    const server = await startMortal(t, makeMark(t));
    for (let round = 1; round <= MOST_FAILED_STARTS + 1; round++) {
      killWorkers(server);
      await logsTimes(server, 'event=worker-ended', round);
      await logsTimes(server, 'event=worker-ready', round + 1);
      assert.equal(await (await connectGreeted(t, server.port)).client.ask('QUIT'), '221 bye');
    }
    server.signal('SIGINT');
    assert.deepEqual(await ended(server), ENDED_WELL);
  });
});

/** As in lib/server/processes/worker-pool.ts. */
const MOST_FAILED_STARTS = 5;

/** A file that makes workers exit at once while it exists. */
interface Mark {
  readonly path: string;
  set(): void;
  remove(): void;
}

function makeMark(t: TestContext): Mark {
  const folder = mkdtempSync(join(tmpdir(), 'workers-'));
  t.after(() => rmSync(folder, { recursive: true }));
  chmodSync(folder, 0o755);
  const path = join(folder, 'die');
  return { path, set: () => writeFileSync(path, ''), remove: () => rmSync(path) };
}

/** Starts a server with one worker that exits at once, with status 3, while the mark exists. */
async function startMortal(t: TestContext, { path }: Mark): Promise<RunningServer> {
  const [, program = ''] = fixture('mortal-worker');
  const environment = { NODE_OPTIONS: `--require=${program}`, MORTAL_MARK: path };
  // Setting a user, even the same one, requires a worker.
  const server = await startServer(['-v2', '-u', String(process.getuid?.())], SMTPD, { environment });
  t.after(() => server.close());
  return server;
}

function killWorkers(server: RunningServer): void {
  for (const worker of childrenOf(server.pid)) process.kill(worker, 'SIGKILL');
}

describe('workers that exit before they are ready', { concurrency: 2 }, () => {
  it('end the server after five in a row', async (t) => {
    const mark = makeMark(t);
    const server = await startMortal(t, mark);
    mark.set();
    killWorkers(server);
    await logs(
      server,
      /fatal: event=workers-gone text="5 consecutive workers exited before they were ready"\n/,
    );
    assert.deepEqual(await ended(server), { code: 111, signal: null });
    assert.equal(server.stderr().split('end=3').length - 1, MOST_FAILED_STARTS);
  });

  it('are counted from zero again after one was ready', async (t) => {
    const mark = makeMark(t);
    const server = await startMortal(t, mark);
    for (let round = 1; round <= 2; round++) {
      mark.set();
      killWorkers(server);
      await logsTimes(server, 'end=3', (MOST_FAILED_STARTS - 1) * round);
      mark.remove();
      await logsTimes(server, 'event=worker-ready', 1 + round);
    }
    assert.equal(await (await connectGreeted(t, server.port)).client.ask('QUIT'), '221 bye');
  });
});

describe('a primary that is killed', { concurrency: 2 }, () => {
  it('leaves workers that finish their sessions and exit', async (t) => {
    const server = await start(t);
    const sessions = await connectToAll(t, server.port, 2);
    const workers = childrenOf(server.pid);
    t.after(() => workers.forEach(tryKill));
    const [first] = sessions;
    assert.ok(first !== undefined);
    assert.equal(await first.client.ask('MAIL FROM:<>'), '250 yes');
    process.kill(server.pid, 'SIGKILL');
    await logsTimes(server, 'event=primary-gone', 2);
    await refuses(server.port);
    assert.equal(await first.client.ask('RCPT TO:<me>'), '250 yes');
    for (const { client } of sessions) {
      assert.equal(await client.ask('QUIT'), '221 bye');
      client.destroy();
    }
    for (const worker of workers) await ends(worker);
    const others = server.stderr().replaceAll(/.*event=refused .*why=stopping\n/g, '');
    assert.equal(others, 'smtpd-starttls-server: warning: event=primary-gone\n'.repeat(2));
  });

  it('leaves workers that exit at the end of the grace period', async (t) => {
    const server = await start(t, '--grace', '1', '-c', '1');
    const { client } = await connectGreeted(t, server.port);
    const workers = childrenOf(server.pid);
    t.after(() => workers.forEach(tryKill));
    process.kill(server.pid, 'SIGKILL');
    assert.match(await client.rest(), /^421 4\.3\.2 /);
    client.destroy();
    for (const worker of workers) await ends(worker);
  });

  it('leaves workers that close waiting connections', async (t) => {
    const server = await start(t, '-c', '1');
    const { client } = await connectGreeted(t, server.port);
    const workers = childrenOf(server.pid);
    t.after(() => workers.forEach(tryKill));
    const second = await connectSmtp(server.port);
    await until('one waits', () => {
      server.signal('SIGUSR1');
      return / waiting=1 /.test(server.stderr());
    });
    process.kill(server.pid, 'SIGKILL');
    assert.match(await second.rest(), /^421 4\.3\.2 /);
    second.destroy();
    assert.equal(await client.ask('QUIT'), '221 bye');
    client.destroy();
    for (const worker of workers) await ends(worker);
  });
});

describe('a primary that is killed behind a proxy', () => {
  it('leaves workers that close connections whose PROXY header comes later', async (t) => {
    const server = await start(t, '--proxy-protocol', '127.0.0.0/8', '--grace', '5');
    const client = await connectSmtp(server.port);
    t.after(() => client.destroy());
    // The decision about the connection was sent before the request for metrics.
    await until('it is in', () => {
      server.signal('SIGUSR1');
      return / accepted=1 .* open=1 waiting=0 /.test(server.stderr());
    });
    const workers = childrenOf(server.pid);
    t.after(() => workers.forEach(tryKill));
    process.kill(server.pid, 'SIGKILL');
    await logsTimes(server, 'event=primary-gone', 2);
    client.send('PROXY TCP4 192.0.2.1 192.0.2.2 1000 25\r\n');
    assert.match(
      await within(DEADLINE, 'reply at the end of the time of grace', client.rest()),
      /^421 4\.3\.2 /,
    );
    client.destroy();
    for (const worker of workers) await ends(worker);
    assert.match(server.stderr(), /event=refused .* remote=192\.0\.2\.1:1000 .* why=stopping\n/);
  });
});

describe('a worker that is stuck', () => {
  it('is killed soon after the second SIGTERM, whatever the grace period', async (t) => {
    const server = await start(t, '-v2', '--grace', '600');
    const [stuck = 0, other = 0] = childrenOf(server.pid);
    process.kill(stuck, 'SIGSTOP');
    server.signal('SIGTERM');
    await ends(other);
    server.signal('SIGTERM');
    const killed = server.logs(
      new RegExp(`event=worker-killed worker=${stuck} text="did not exit in time"\n`),
    );
    await within(DEADLINE, 'end of the worker', killed);
    assert.deepEqual(await ended(server), ENDED_WELL);
  });
});

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

function tryKill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has exited already.
  }
}

// One at a time: the last kills a worker of the only server that is running.
describe('workers that cannot start', { concurrency: 1 }, () => {
  it('are not started without a valid certificate', async (t) => {
    const maker = makeCertificates();
    t.after(() => maker.remove());
    const certFile = join(maker.folder, 'bad.pem');
    writeFileSync(certFile, 'no certificate');
    const { keyFile } = maker.selfSigned('mail.example.org');
    for (const [environment, why] of [
      [{ CERTFILE: certFile, KEYFILE: keyFile }, 'bad.pem'],
      [{ CERTFILE: undefined, KEYFILE: keyFile }, 'CERTFILE'],
    ] as const) {
      await assert.rejects(
        startServer(['--workers', '2'], SMTPD, { environment }),
        new RegExp(`ended with 1(?:00|11): smtpd-starttls-server: fatal: [^\n]*${why}[^\n]*\n$`),
      );
    }
  });

  it('end the server when they may not change user', { skip: process.getuid?.() !== 0 }, async () => {
    await assert.rejects(
      startServer(['--workers', '2', '-u', '4000000000'], SMTPD, {
        under: ['setpriv', '--bounding-set=-setuid', '--inh-caps=-setuid', '--'],
      }),
      /ended with 111: (?:\S+ fatal: unable to change user and group: EPERM \(only root can do this, [^\n]+\)\n){1,2}$/,
    );
  });

  it('end the server when the user is not in the user namespace', {
    skip: spawnSync('unshare', ['-r', 'true']).status !== 0,
  }, async () => {
    await assert.rejects(
      startServer(['-u', '1001'], SMTPD, { under: ['unshare', '-r'] }),
      /ended with 111: \S+ fatal: unable to change user and group: EINVAL \(no such user or group in this user namespace\)\n$/,
    );
  });

  it('end the server when one is killed', async () => {
    const starting = startServer(['--workers', '2'], SMTPD);
    const children = childrenOf(process.pid);
    const killed = (async (): Promise<number> => {
      let worker: number | undefined;
      await until('there is a worker', () => {
        worker = children.concat(childrenOf(process.pid)).flatMap(tryChildrenOf)[0];
        return worker !== undefined;
      });
      process.kill(worker ?? 0, 'SIGKILL');
      return worker ?? 0;
    })();
    const [outcome] = await Promise.allSettled([starting, killed]);
    if (outcome.status === 'fulfilled') return outcome.value.close();
    assert.match(String(outcome.reason), /ended with 111/);
  });
});

function tryChildrenOf(pid: number): number[] {
  try {
    return childrenOf(pid);
  } catch {
    return [];
  }
}
