/** --on-demand: an smtpd is started when a client needs one. */

import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { runningTimer } from '../support/kernel.ts';
import { childrenOf, isGone, until } from '../support/processes.ts';
import { fixture } from '../support/programs.ts';
import { certificateForAll, type RunningServer, type ServerSetup, startServer } from '../support/server.ts';
import { connectTls, connectTo, type SmtpClient } from '../support/smtp-client.ts';
import { closedPort, listenTcp } from '../support/tcp.ts';

const folder = mkdtempSync(join(tmpdir(), 'on-demand-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const SMTPD = fixture('smtpd-script');
/** A command that runs `learned` for the introduction, which has no client, and `real` for clients. */
function either(learned: readonly string[], real: readonly string[]): string[] {
  const quote = (words: readonly string[]): string =>
    words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' ');
  const script = `if [ "$TCPREMOTEPORT" = 1 ]; then exec ${quote(learned)}; else exec ${quote(real)}; fi`;
  return ['sh', '-c', script];
}

async function start(
  t: TestContext,
  { options = [], smtpd = SMTPD, ...setup }: ServerSetup & { options?: string[]; smtpd?: string[] } = {},
): Promise<RunningServer> {
  const server = await startServer(['--on-demand', '-v', '2', ...options], smtpd, setup);
  t.after(server.close);
  return server;
}

/** The counters that SIGUSR1 logs. */
async function counters(server: RunningServer): Promise<Map<string, number>> {
  const count = (): number => server.stderr().split('event=counters').length;
  const before = count();
  server.signal('SIGUSR1');
  await until('the counters are logged', () => count() > before);
  const line = server.stderr().split('event=counters').at(-1) ?? '';
  return new Map([...line.matchAll(/(\w+)=(\d+)/g)].map(([, name = '', value]) => [name, Number(value)]));
}

async function environmentOf(client: SmtpClient): Promise<NodeJS.ProcessEnv> {
  return JSON.parse((await client.ask('XDO environment')).slice(4));
}

describe('a session that needs no smtpd', () => {
  it('is answered from the introduction, in cleartext and in TLS, and no process is started', async (t) => {
    const server = await start(t);
    const client = await connectTo(t, server);
    assert.equal(await client.reply(), '220 smtpd-script ready');
    assert.equal(await client.ask('EHLO me'), '250-smtpd-script\n250-8BITMIME\n250 STARTTLS');
    assert.equal(await client.ask('NOOP'), '250 2.0.0 OK');
    await client.startTls();
    assert.equal(await client.ask('EHLO me'), '250-smtpd-script\n250-8BITMIME\n250 AUTH LOGIN');
    assert.equal(await client.ask('HELO me'), '250 smtpd-script');
    assert.equal(await client.ask('RSET'), '250 2.0.0 OK');
    assert.match(await client.ask('STARTTLS'), /^503 5\.5\.1 /);
    assert.match(await client.ask('RCPT TO:<a@b>'), /^503 5\.5\.1 /);
    assert.deepEqual(childrenOf(server.pid), []);
    assert.match(await client.ask('QUIT'), /^221 2\.0\.0 /);
    assert.equal(await client.rest(), '');
    client.end();
    await server.logs(/event=end .*verdict=tls smtpd=none in=/);
    const counted = await counters(server);
    // One to learn the introduction.
    assert.deepEqual([counted.get('smtpd_started'), counted.get('smtpd_running')], [1, 0]);
    assert.deepEqual([counted.get('without_smtpd'), counted.get('smtpd_exits')], [1, 0]);
  });

  it('cannot fill the log with warnings', async (t) => {
    const server = await start(t);
    const warnings = (): string[] => server.stderr().match(/warning: event=session .*/g) ?? [];
    const request = async (): Promise<void> => {
      const client = await connectTo(t, server);
      await client.reply();
      client.sendLines('GET / HTTP/1.1');
      await client.rest();
    };
    await Promise.all(Array.from({ length: 60 }, request));
    assert.ok(warnings().length < 60, 'as many lines as sessions');
    while (!server.stderr().includes('suppressed=')) await request();
    assert.match(warnings().at(-1) ?? '', / smtpd=none text="[^"]*HTTP[^"]*" suppressed=\d+$/);
  });

  for (const options of [['--implicit-tls'], ['--workers', '2', '--implicit-tls']]) {
    it(`costs no process with ${options.join(' ')}`, async (t) => {
      const server = await start(t, { options });
      const client = await connectTo(t, server);
      await client.shakeHands();
      assert.equal(await client.reply(), '220 smtpd-script ready');
      assert.equal(await client.ask('EHLO me'), '250-smtpd-script\n250-8BITMIME\n250 AUTH LOGIN');
      client.sendLines('GET / HTTP/1.1');
      assert.match(await client.rest(), /^421 4\.7\.0 /);
      client.end();
      await server.logs(/event=end .*smtpd=none/);
    });
  }

  it('has the idle timeout in TLS too', async (t) => {
    // A busy machine may take a second for the handshake.
    const server = await start(t, { options: ['-t', '3'] });
    const client = await connectTls(t, server);
    assert.match(await client.rest(), /^421 4\.4\.2 [^\n]*\n$/);
  });

  it('has the error limit in TLS too', async (t) => {
    const server = await start(t, { options: ['--error-limit', '3'] });
    const client = await connectTls(t, server);
    client.sendLines('', 'DATA', 'x\0y', 'NOOP');
    assert.match(await client.rest(), /^500 [^\n]*\n503 [^\n]*\n500 [^\n]*\n421 4\.7\.0 [^\n]*\n$/);
    await server.logs(/event=error-limit/);
    assert.equal((await counters(server)).get('error_limit_reached'), 1);
  });

  it('gets a 421 when the server shuts down', async (t) => {
    const server = await start(t, { options: ['--grace', '0'] });
    const [clear, tls] = [await connectTo(t, server), await connectTls(t, server)];
    await clear.reply();
    server.signal('SIGTERM');
    for (const client of [clear, tls]) {
      assert.match(await client.rest(), /^421 4\.3\.2 [^\n]*\n$/);
      client.end();
    }
    assert.equal((await server.ended).code, 0);
    assert.doesNotMatch(server.stderr(), /warning|fatal/);
  });
});

describe('the smtpd that is started', () => {
  it('has the environment of TLS and the name that the client gave there', async (t) => {
    const record = join(folder, 'record-tls');
    const server = await start(t, { smtpd: either(SMTPD, [...SMTPD, `--record=${record}`]) });
    const client = await connectTls(t, server);
    const environment = await environmentOf(client);
    assert.deepEqual(
      [environment.SSL_PROTOCOL, environment.TCPREMOTEIP, environment.PROTO],
      ['TLSv1.3', '127.0.0.1', 'TCP'],
    );
    const [pid] = childrenOf(server.pid);
    assert.equal(await client.ask('MAIL FROM:<a@b>'), '250 2.1.0 Sender ok');
    assert.equal(await client.ask('QUIT'), '221 2.0.0 Bye');
    client.end();
    await server.logs(new RegExp(`event=end .*smtpd=${pid} status=0 `));
    assert.equal(
      readFileSync(record, 'latin1'),
      'EHLO tls.example\r\nXDO environment\r\nMAIL FROM:<a@b>\r\nQUIT\r\n',
    );
  });

  it('has a client that is probed: until then there is the idle timeout', async (t) => {
    const server = await start(t);
    const client = await connectTls(t, server);
    const timer = (): string => runningTimer(server.port, client.tcp().localPort ?? 0);
    await until('all is acknowledged', () => timer() !== 'retransmission');
    assert.equal(timer(), 'none');
    await client.ask('MAIL FROM:<a@b>');
    await until('all is acknowledged', () => timer() !== 'retransmission');
    assert.equal(timer(), 'keepalive');
  });

  it('gets everything that is pipelined behind the command, in cleartext', async (t) => {
    const server = await start(t);
    const client = await connectTo(t, server);
    client.sendLines('HELO me', 'MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'DATA', 'text', '.', 'QUIT');
    assert.match(
      await client.rest(),
      /^220 [^\n]*\n250 smtpd-script\r\n250 2\.1\.0 [^\n]*\n250 2\.1\.5 [^\n]*\n354 [^\n]*\n250 2\.0\.0 Queued[^\n]*\n221 2\.0\.0 Bye\r\n$/,
    );
  });

  it('is replaced in TLS when it was started in cleartext', async (t) => {
    const server = await start(t);
    const client = await connectTo(t, server);
    await client.reply();
    assert.equal(await client.ask('HELP'), '214-Line one\n214 Line two');
    const [first] = childrenOf(server.pid);
    await client.startTls();
    await client.ask('EHLO me');
    assert.equal((await environmentOf(client)).SSL_PROTOCOL, 'TLSv1.3');
    await until('the first smtpd is gone', () => childrenOf(server.pid).length === 1);
    assert.notEqual(childrenOf(server.pid)[0], first);
    await client.ask('QUIT');
  });

  it('is logged with its own status when none was needed in TLS', async (t) => {
    const server = await start(t, { smtpd: [...SMTPD, '--end=exit 7'] });
    const client = await connectTo(t, server);
    await client.reply();
    assert.equal(await client.ask('HELP'), '214-Line one\n214 Line two');
    const [pid] = childrenOf(server.pid);
    await client.startTls();
    await client.ask('QUIT');
    client.end();
    await server.logs(new RegExp(`event=end .*smtpd=${pid} status=7 `));
  });

  for (const [what, real, reply, status] of [
    [
      'refuses service',
      ['--start=line 554-No; line 554 5.7.1 Not you; await-end; exit 0'],
      /^554-No\n554 5\.7\.1 Not you$/,
      '0',
    ],
    ['refuses EHLO', ['--on=EHLO:line 550 5.7.1 Not you'], /^550 5\.7\.1 Not you$/, '0'],
  ] as const) {
    it(`and ${what}: its reply is the reply to MAIL`, async (t) => {
      const server = await start(t, { smtpd: either(SMTPD, [...SMTPD, ...real]) });
      const client = await connectTls(t, server);
      assert.match(await client.ask('MAIL FROM:<a@b>'), reply);
      client.end();
      await server.logs(new RegExp(`event=end .*smtpd=\\d+ status=${status} `));
    });
  }

  for (const [what, real, why] of [
    ['exits', ['--start=exit 5'], 'smtpd failed in its opening: exit status 5'],
    [
      'is no SMTP server',
      ['--start=line hello; await-end; exit 0'],
      'smtpd failed in its opening: invalid SMTP reply',
    ],
    ['is killed', ['--start=die SIGKILL'], 'smtpd failed in its opening: killed by SIGKILL'],
    ['sends nothing', ['--start=await-end; exit 0'], 'smtpd failed in its opening: idle timeout'],
  ] as const) {
    // In cleartext the idle timeout of the dialogue passes at the same time, and ends the session with 421 4.4.2.
    for (const connectIn of what === 'sends nothing' ? [connectTls] : [connectTo, connectTls]) {
      it(`and ${what}: 421 and one line on stderr, ${connectIn === connectTo ? 'cleartext' : 'TLS'}`, async (t) => {
        const smtpd = either(SMTPD, [...SMTPD, ...real]);
        const server = await start(t, { options: ['-t', '2'], smtpd });
        const client = await connectIn(t, server);
        if (connectIn === connectTo) await client.reply();
        client.sendLines('VRFY me');
        assert.match(await client.rest(), /^421 4\.3\.0 [^\n]*\n$/);
        client.end();
        await server.logs(/event=end .*smtpd=\d+ /);
        const lines = server.stderr().match(/^.*event=session.*$/gm) ?? [];
        assert.equal(lines.length, 1, server.stderr());
        assert.match(lines[0] ?? '', new RegExp(`: warning: event=session .*smtpd=\\d+ text="${why}"$`));
        assert.deepEqual(childrenOf(server.pid), []);
      });
    }
  }

  it('and cannot be run any more: 421, one line on stderr, status 127', async (t) => {
    const path = join(folder, 'vanishing');
    writeFileSync(path, `#!/bin/sh\nexec ${SMTPD.join(' ')}\n`);
    chmodSync(path, 0o755);
    const server = await start(t, { smtpd: [path] });
    const client = await connectTls(t, server);
    rmSync(path);
    client.sendLines('MAIL FROM:<>');
    assert.match(await client.rest(), /^421 4\.3\.0 [^\n]*\n$/);
    client.end();
    await server.logs(/warning: event=session .*text="cannot run .*ENOENT \([^"]+\)"/);
  });

  it('is a connection to another server with --to', async (t) => {
    let connections = 0;
    const port = await listenTcp(t, (socket) => {
      connections += 1;
      socket.write('220 backend\r\n');
      socket.on('data', (bytes) => {
        for (const line of bytes.toString().split('\r\n').slice(0, -1)) {
          socket.write(line === 'QUIT' ? '221 bye\r\n' : '250 backend\r\n');
          if (line === 'QUIT') socket.end();
        }
      });
    });
    const server = await start(t, { options: ['--to', `127.0.0.1:${port}`], smtpd: [] });
    const client = await connectTls(t, server);
    assert.equal(connections, 1);
    assert.equal(await client.ask('MAIL FROM:<>'), '250 backend');
    assert.equal(connections, 2);
    client.sendLines('QUIT');
    client.end();
    await server.logs(new RegExp(`event=end .*smtpd=127\\.0\\.0\\.1:${port} `));
  });
});

describe('--smtpds', () => {
  for (const workers of ['1', '2']) {
    it(`makes a command wait for another smtpd to end, ${workers} workers`, async (t) => {
      const server = await start(t, { options: ['--smtpds', '1', '--workers', workers] });
      const [first, second] = [await connectTls(t, server), await connectTls(t, server)];
      assert.equal(await first.ask('MAIL FROM:<>'), '250 2.1.0 Sender ok');
      second.sendLines('MAIL FROM:<>');
      let isAnswered = false;
      const answer = second.reply().then((reply) => {
        isAnswered = true;
        return reply;
      });
      // Both go through the same process and the same limiter.
      const probe = await connectTls(t, server);
      assert.equal(await probe.ask('NOOP'), '250 2.0.0 OK');
      assert.ok(!isAnswered);
      assert.equal(await first.ask('QUIT'), '221 2.0.0 Bye');
      first.end();
      assert.equal(await answer, '250 2.1.0 Sender ok');
    });
  }

  it('counts the smtpds of all workers', async (t) => {
    const server = await start(t, { options: ['--smtpds', '1', '--workers', '2', '-t', '2'] });
    await until('both are ready', () => server.stderr().split('event=worker-ready').length === 3);
    const workers = childrenOf(server.pid);
    assert.equal(workers.length, 2);
    const clients: SmtpClient[] = [];
    for (const stopped of workers) {
      process.kill(stopped, 'SIGSTOP');
      try {
        clients.push(await connectTls(t, server));
      } finally {
        process.kill(stopped, 'SIGCONT');
      }
    }
    const [first, second] = clients;
    assert.equal(await first?.ask('MAIL FROM:<>'), '250 2.1.0 Sender ok');
    assert.match((await second?.ask('MAIL FROM:<>')) ?? '', /^451 4\.3\.2 /);
  });

  it('answers 451 when that takes longer than -t, and the session continues', async (t) => {
    const server = await start(t, { options: ['--smtpds', '1', '-t', '2'] });
    const [first, second] = [await connectTls(t, server), await connectTls(t, server)];
    assert.equal(await first.ask('MAIL FROM:<>'), '250 2.1.0 Sender ok');
    second.sendLines('MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'DATA');
    assert.match(await second.reply(), /^451 4\.3\.2 /);
    assert.match(await second.reply(), /^503 5\.5\.1 /);
    assert.match(await second.reply(), /^503 5\.5\.1 /);
    first.destroy();
    await server.logs(/event=end /);
    assert.equal(await second.ask('MAIL FROM:<a@b>'), '250 2.1.0 Sender ok');
  });

  it('answers 451 in cleartext too, before the dialogue would end an idle session', async (t) => {
    const server = await start(t, { options: ['--smtpds', '1', '-t', '2'] });
    const [first, second] = [await connectTls(t, server), await connectTo(t, server)];
    assert.equal(await first.ask('MAIL FROM:<>'), '250 2.1.0 Sender ok');
    await second.reply();
    assert.match(await second.ask('VRFY me'), /^451 4\.3\.2 /);
    assert.equal(await second.ask('NOOP'), '250 2.0.0 OK');
  });

  it('bounds the smtpds that are started at once without an introduction', async (t) => {
    const smtpd = either(['false'], SMTPD);
    const server = await start(t, { options: ['--smtpds', '1', '-t', '2'], smtpd });
    const first = await connectTo(t, server);
    assert.equal(await first.reply(), '220 smtpd-script ready');
    const second = await connectTo(t, server);
    assert.match(await second.rest(), /^421 4\.3\.2 [^\n]*\n$/);
    assert.equal(childrenOf(server.pid).length, 1);
  });

  it('requires --on-demand', async () => {
    await assert.rejects(startServer(['--smtpds', '1'], SMTPD), /has ended with 100: .*--smtpds requires/);
  });
});

describe('the introduction', () => {
  for (const [what, learned, why] of [
    ['exits', ['--start=exit 3'], 'exit status 3'],
    [
      'refuses service',
      ['--start=line 421 4.3.2 Not now; await-end; exit 0'],
      'it refused service: 421 4.3.2 Not now',
    ],
    ['refuses EHLO', ['--on=EHLO:line 502 What'], 'it refused EHLO: 502 What'],
    ['refuses HELO', ['--on=HELO:line 502 What'], 'it refused HELO: 502 What'],
    ['is no SMTP server', ['--start=line hello; await-end; exit 0'], 'invalid SMTP reply'],
    ['sends nothing', ['--start=await-end; exit 0'], 'idle timeout'],
  ] as const) {
    it(`of an smtpd that ${what} is a warning, and smtpd is started at once`, async (t) => {
      const smtpd = either([...SMTPD, ...learned], SMTPD);
      const server = await start(t, { options: ['-t', '2'], smtpd });
      assert.ok(server.stderr().includes(`warning: event=introduction text="unable to learn`));
      assert.ok(server.stderr().includes(`starting it for each client: ${why}"`), server.stderr());
      const client = await connectTo(t, server);
      assert.equal(await client.reply(), '220 smtpd-script ready');
      assert.equal(childrenOf(server.pid).length, 1);
      await client.ask('EHLO me');
      await client.startTls();
      assert.equal((await environmentOf(client)).SSL_PROTOCOL, 'TLSv1.3');
    });
  }

  for (const workers of ['1', '2']) {
    it(`is learned again on SIGHUP, ${workers} workers`, async (t) => {
      const path = join(folder, `changing-${workers}`);
      const write = (name: string): void => {
        writeFileSync(path, `#!/bin/sh\nexec ${SMTPD.join(' ')} "--start=line 220 ${name}"\n`);
        chmodSync(path, 0o755);
      };
      write('old');
      const server = await start(t, { options: ['--workers', workers], smtpd: [path] });
      assert.equal(await (await connectTo(t, server)).reply(), '220 old');
      write('new');
      server.signal('SIGHUP');
      await until(
        'all have learned',
        () => server.stderr().split('event=introduction text=new').length > Number(workers),
      );
      for (let count = 0; count < 4; count++) {
        assert.equal(await (await connectTo(t, server)).reply(), '220 new');
      }
    });
  }

  it('is learned once more on a SIGHUP that comes meanwhile', async (t) => {
    const path = join(folder, 'slow');
    const write = (start: string): void => {
      writeFileSync(path, `#!/bin/sh\nexec ${SMTPD.join(' ')} "--start=${start}"\n`);
      chmodSync(path, 0o755);
    };
    write('line 220 first');
    const server = await start(t, { smtpd: [path] });
    const waits = join(folder, 'slow-record');
    write(`await-signal; line 220 old" "--record=${waits}`);
    server.signal('SIGHUP');
    await until('smtpd waits', () => existsSync(`${waits}.waits`));
    write('line 220 new');
    server.signal('SIGHUP');
    // They are logged at a later signal, so that one has been handled.
    await counters(server);
    for (const pid of childrenOf(server.pid)) process.kill(pid, 'SIGUSR1');
    await server.logs(/event=introduction text=old/);
    await until('it is learned again', () => server.stderr().includes('event=introduction text=new'));
    assert.equal(await (await connectTo(t, server)).reply(), '220 new');
  });

  /** Starts a server whose smtpd runs a script of sh in place of itself when it is learned. Settles when that runs. */
  async function startLearning(t: TestContext, script: string, setup: ServerSetup = {}) {
    const path = join(mkdtempSync(join(folder, 'learning-')), 'pids');
    const smtpd = either(
      ['sh', '-c', `echo $PPID $$ > ${path}.new; mv ${path}.new ${path}; ${script}`],
      SMTPD,
    );
    const started = startServer(['--on-demand', '-v', '2'], smtpd, setup);
    const outcome = started.then(
      (server) => {
        t.after(server.close);
        return server;
      },
      (error: unknown) => String(error),
    );
    await until('smtpd is learned', () => existsSync(path));
    const [server = 0, learned = 0] = readFileSync(path, 'latin1').split(' ').map(Number);
    return { outcome, server, learned };
  }

  it('leaves no smtpd behind when the server is stopped while it is learned', async (t) => {
    // It ignores the end of its input.
    const { outcome, server, learned } = await startLearning(t, 'exec sleep 60');
    process.kill(server, 'SIGTERM');
    assert.match(String(await outcome), /has ended with 0: /);
    assert.ok(isGone(learned));
  });

  it('is known before the server listens: connections would be accepted without a bound', async (t) => {
    const port = await closedPort();
    const go = join(folder, 'go');
    const { outcome } = await startLearning(
      t,
      `while [ ! -e ${go} ]; do sleep 0.1; done; exec ${SMTPD.join(' ')}`,
      { listen: ['127.0.0.1', String(port)] },
    );
    await assert.rejects(connectTo(t, { port }), { code: 'ECONNREFUSED' });
    writeFileSync(go, '');
    const server = await outcome;
    assert.ok(typeof server !== 'string', String(server));
    assert.equal(await (await connectTo(t, server)).reply(), '220 smtpd-script ready');
  });

  it('is learned again on a SIGHUP that arrives while it is learned', async (t) => {
    const go = join(folder, 'go-again');
    const first = `while [ ! -e ${go} ]; do sleep 0.1; done; exec ${[...SMTPD, '"--start=line 220 first"'].join(' ')}`;
    const second = `exec ${[...SMTPD, '"--start=line 220 second"'].join(' ')}`;
    const { outcome, server: pid } = await startLearning(
      t,
      `if [ ! -e ${go} ]; then ${first}; else ${second}; fi`,
    );
    process.kill(pid, 'SIGHUP');
    writeFileSync(go, '');
    const server = await outcome;
    assert.ok(typeof server !== 'string', String(server));
    await server.logs(/event=introduction text=second/);
  });

  it('is not learned any more when the server shuts down', async (t) => {
    const server = await start(t, { options: ['--grace', '30'] });
    await connectTls(t, server);
    server.signal('SIGTERM');
    await server.logs(/event=stopping/);
    server.signal('SIGHUP');
    assert.equal((await counters(server)).get('smtpd_started'), 1);
  });

  it('has neither STARTTLS nor what is about the client', async (t) => {
    const ehlo = '--on=EHLO:line 250-host Hello [127.0.0.1]; line 250-STARTTLS; line 250 SIZE 9';
    const helo = '--on=HELO:line 250 host pleased to meet you 127.0.0.1';
    const server = await start(t, { smtpd: [...SMTPD, ehlo, helo] });
    const client = await connectTo(t, server);
    await client.reply();
    assert.equal(await client.ask('EHLO me'), '250-host\n250-SIZE 9\n250 STARTTLS');
    await client.startTls();
    assert.equal(await client.ask('EHLO me'), '250-host\n250 SIZE 9');
    assert.equal(await client.ask('HELO me'), '250 host');
  });

  it('is learned as the user that serves', { skip: process.getuid?.() !== 0 && 'needs root' }, async (t) => {
    const path = join(tmpdir(), `on-demand-id-${process.pid}`);
    t.after(() => rmSync(path, { force: true }));
    writeFileSync(
      path,
      '#!/bin/sh\nprintf "220 user %s\\r\\n" "$(id -u)"; read x; printf "250 a\\r\\n"; read x; printf "250 b\\r\\n"; read x\n',
    );
    chmodSync(path, 0o755);
    const server = await start(t, {
      options: ['-u', '65534', '-g', '65534'],
      smtpd: [path],
      environment: certificateForAll(t),
    });
    assert.equal(await (await connectTo(t, server)).reply(), '220 user 65534');
  });
});

describe('--on-demand with other options', () => {
  it('--require-tls: MAIL and HELO in cleartext cost no process', async (t) => {
    const server = await start(t, { options: ['--require-tls'] });
    const client = await connectTo(t, server);
    await client.reply();
    assert.equal(await client.ask('HELO me'), '250 smtpd-script');
    assert.match(await client.ask('MAIL FROM:<>'), /^530 5\.7\.0 /);
    assert.deepEqual(childrenOf(server.pid), []);
  });

  it('--proxy-protocol: smtpd gets the address of the client', async (t) => {
    const server = await start(t, { options: ['--proxy-protocol', '127.0.0.1'] });
    const client = await connectTo(t, server);
    client.send('PROXY TCP4 192.0.2.7 192.0.2.1 4711 25\r\n');
    assert.equal(await client.reply(), '220 smtpd-script ready');
    await client.startTls();
    assert.equal((await environmentOf(client)).TCPREMOTEIP, '192.0.2.7');
  });

  it('SIGTERM with --grace: a session with mail may finish', async (t) => {
    const server = await start(t, { options: ['--grace', '30'] });
    const client = await connectTls(t, server);
    server.signal('SIGTERM');
    await server.logs(/event=stopping/);
    assert.equal(await client.ask('MAIL FROM:<>'), '250 2.1.0 Sender ok');
    assert.equal(await client.ask('QUIT'), '221 2.0.0 Bye');
    client.end();
    assert.equal((await server.ended).code, 0);
  });
});
