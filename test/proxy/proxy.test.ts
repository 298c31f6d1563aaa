/** The proxy for one connection, on descriptors 0 and 1 as a super-server gives them. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectTcp, createServer, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { after, describe, it, type TestContext } from 'node:test';
import { endOfV1, makeBackend } from '../support/backend.ts';
import { makeCertificates } from '../support/certificate.ts';
import { type Chain, NO_UCSPI_TCP, serve, watch } from '../support/chain.ts';
import { unreadOctets } from '../support/kernel.ts';
import { childrenOf, statusOf, targetOf, until } from '../support/processes.ts';
import { fixture, ours } from '../support/programs.ts';
import { run } from '../support/real.ts';
import { connectTo, type SmtpClient } from '../support/smtp-client.ts';
import { closedPort, listenTcp, listenUnix } from '../support/tcp.ts';
import { collect, startTls } from '../support/tls-client.ts';

const certificates = makeCertificates();
const pair = certificates.selfSigned('localhost');
const folder = mkdtempSync(join(tmpdir(), 'starttls-proxy-'));
const KEYS: NodeJS.ProcessEnv = { CERTFILE: pair.certFile, KEYFILE: pair.keyFile };
const NOBODY_UID = 65534;
/** A shell as smtpd: it opens no descriptors of its own. */
const PLAIN_SMTPD = ['sh', '-c', 'printf "220 sh\\r\\n"; while read line; do printf "250 ok\\r\\n"; done'];

after(() => {
  certificates.remove();
  rmSync(folder, { recursive: true, force: true });
});

/** How to start the proxy. */
interface Setting {
  readonly options?: readonly string[];
  /** Options of smtpd-script. */
  readonly smtpd?: readonly string[];
  /** Instead of smtpd-script. */
  readonly command?: readonly string[];
  readonly environment?: NodeJS.ProcessEnv;
}

function commandOf({ options = [], smtpd = [], command }: Setting): string[] {
  return [ours('smtpd-starttls-proxy'), ...options, ...(command ?? fixture('smtpd-script', ...smtpd))];
}

async function listen(t: TestContext, setting: Setting): Promise<Chain> {
  const chain = await serve(commandOf(setting), { ...KEYS, ...setting.environment });
  t.after(chain.close);
  return chain;
}

async function environmentOf(client: SmtpClient): Promise<NodeJS.ProcessEnv> {
  return JSON.parse((await client.ask('XDO environment')).slice(4));
}

/** Whether all bytes sent by the client were read. */
function hasRead({ port }: { port: number }, client: SmtpClient): boolean {
  const socket = client.socket();
  return (
    socket instanceof Socket && socket.bytesWritten > 0 && unreadOctets(port, socket.localPort ?? 0) === 0
  );
}

describe('smtpd-starttls-proxy', { concurrency: 3, timeout: 60_000 }, () => {
  it('does STARTTLS, and keeps the same smtpd', async (t) => {
    const chain = await listen(t, { smtpd: ['--on=QUIT:line 221 Bye; exit 7'] });
    const client = await connectTo(t, chain);
    assert.equal(await client.reply(), '220 smtpd-script ready');
    assert.equal(await client.ask('EHLO client'), '250-smtpd-script\n250-8BITMIME\n250 STARTTLS');
    await client.startTls();
    assert.equal(await client.ask('EHLO client'), '250-smtpd-script\n250-8BITMIME\n250 AUTH LOGIN');
    client.sendLines('MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'DATA');
    for (const code of ['250', '250', '354']) assert.ok((await client.reply()).startsWith(code));
    assert.equal(await client.ask('Subject: x\r\n\r\nhello\r\n.'), '250 2.0.0 Queued 21');
    assert.equal(await client.ask('QUIT'), '221 Bye');
    assert.equal(await client.rest(), '');
    client.end();
    const served = await chain.served(0);
    assert.equal((await served.ended).code, 7);
    assert.equal(served.stderr(), '');
  });

  it('passes the variables of the server above to smtpd, except those for keys', async (t) => {
    const chain = await listen(t, {
      options: ['-v2'],
      environment: { TCPREMOTEHOST: 'client.example', TCPLOCALHOST: 'here.example', CAFILE: '/nowhere' },
    });
    const client = await connectTo(t, chain);
    await client.reply();
    const environment = await environmentOf(client);
    assert.equal(environment.TCPREMOTEIP, '127.0.0.1');
    assert.equal(environment.TCPREMOTEHOST, 'client.example');
    assert.equal(environment.TCPLOCALHOST, 'here.example');
    for (const name of ['CERTFILE', 'KEYFILE', 'CAFILE']) assert.equal(environment[name], undefined, name);
    await client.startTls();
    await (await chain.served(0)).logs(/^smtpd-starttls-proxy: info: TLS with 127\.0\.0\.1: TLSv1\.3, /m);
  });

  it('sets the variables of UCSPI-TCP for smtpd when they are missing, as under inetd', async (t) => {
    const chain = await listen(t, { options: ['-l', 'here.example'], environment: NO_UCSPI_TCP });
    const client = await connectTo(t, chain);
    await client.reply();
    const environment = await environmentOf(client);
    const socket = client.socket();
    assert.ok('localPort' in socket);
    assert.deepEqual(
      ['PROTO', 'TCPREMOTEIP', 'TCPREMOTEPORT', 'TCPLOCALIP', 'TCPLOCALPORT', 'TCPLOCALHOST'].map(
        (name) => environment[name],
      ),
      ['TCP', '127.0.0.1', String(socket.localPort), '127.0.0.1', String(chain.port), 'here.example'],
    );
  });

  it('asks the system when the variables are malformed', async (t) => {
    for (const environment of [
      { TCPREMOTEIP: 'client' },
      { TCPREMOTEPORT: 'smtp' },
      { TCPLOCALPORT: '70000' },
    ]) {
      const chain = await listen(t, { environment });
      const client = await connectTo(t, chain);
      await client.reply();
      const given = await environmentOf(client);
      const socket = client.socket();
      assert.ok('localPort' in socket);
      assert.deepEqual(
        [given.TCPREMOTEIP, given.TCPREMOTEPORT, given.TCPLOCALPORT],
        ['127.0.0.1', String(socket.localPort), String(chain.port)],
      );
    }
  });

  it('describes TLS in the environment of a fresh smtpd', async (t) => {
    const chain = await listen(t, { options: ['--fresh', '-k1'] });
    const client = await connectTo(t, chain);
    await client.reply();
    await client.startTls({ servername: 'localhost' });
    const environment = await environmentOf(client);
    assert.equal(environment.SSL_PROTOCOL, 'TLSv1.3');
    assert.equal(environment.SSL_TLS_SNI_SERVERNAME, 'localhost');
    assert.equal(environment.TCPREMOTEIP, '127.0.0.1');
  });

  it('does implicit TLS', async (t) => {
    const chain = await listen(t, { options: ['--implicit-tls'], smtpd: ['--on=QUIT:exit 3'] });
    const client = await connectTo(t, chain);
    await client.shakeHands();
    assert.equal(await client.reply(), '220 smtpd-script ready');
    assert.equal(await client.ask('EHLO client'), '250-smtpd-script\n250-8BITMIME\n250 AUTH LOGIN');
    assert.equal((await environmentOf(client)).SSL_PROTOCOL, 'TLSv1.3');
    client.sendLines('QUIT');
    await client.rest();
    client.end();
    assert.equal((await (await chain.served(0)).ended).code, 3);
  });

  it('exits with 111 when a client sends cleartext with implicit TLS', async (t) => {
    const chain = await listen(t, { options: ['--implicit-tls'] });
    const client = await connectTo(t, chain);
    client.sendLines('EHLO client');
    await client.rest().catch(() => '');
    const served = await chain.served(0);
    assert.equal((await served.ended).code, 111);
    assert.match(
      served.stderr(),
      /^smtpd-starttls-proxy: warning: unable to start TLS with 127\.0\.0\.1: ERR_SSL_\w+\n$/,
    );
  });

  it('sends 421 in TLS when smtpd cannot be started', async (t) => {
    const chain = await listen(t, { options: ['--implicit-tls'], command: ['/nowhere/smtpd'] });
    const client = await connectTo(t, chain);
    await client.shakeHands();
    assert.match(await client.reply(), /^421 4\.3\.0 /);
    assert.equal(await client.rest(), '');
    client.end();
    const served = await chain.served(0);
    assert.equal((await served.ended).code, 127);
    assert.equal(
      served.stderr(),
      'smtpd-starttls-proxy: fatal: cannot run /nowhere/smtpd: ENOENT (no such program: check its path, PATH, and the interpreter in its first line)\n',
    );
  });

  it('ends when a client stalls in the middle of the handshake', async (t) => {
    for (const options of [
      ['-K', '200', '--implicit-tls'],
      ['-K', '200'],
    ]) {
      const chain = await listen(t, { options });
      const client = await connectTo(t, chain);
      if (options.length === 2) {
        await client.reply();
        assert.match(await client.ask('STARTTLS'), /^220 /);
      }
      client.send(Buffer.from('160301', 'hex'));
      const served = await chain.served(0);
      const { code } = await served.ended;
      assert.equal(code, options.length === 2 ? 0 : 111);
      assert.match(served.stderr(), /the handshake took too long/);
    }
  });

  it('passes SIGTERM on, and the client receives 421', async (t) => {
    const chain = await listen(t, {});
    const client = await connectTo(t, chain);
    await client.reply();
    await client.startTls();
    assert.match(await client.ask('NOOP'), /^250 /);
    const served = await chain.served(0);
    served.kill('SIGTERM');
    assert.match(await client.reply(), /^421 4\.3\.2 /);
    client.end();
    assert.equal((await served.ended).code, 143);
  });

  it('ends on SIGTERM before the session: in the PROXY header, in the handshake', async (t) => {
    for (const [sent, ...options] of [
      ['PROXY ', '--proxy-protocol', '127.0.0.1'],
      ['\x16\x03\x01', '--implicit-tls'],
    ] as const) {
      const chain = await listen(t, { options });
      const client = await connectTo(t, chain);
      const served = await chain.served(0);
      // Before its handler is installed, SIGTERM kills it like any program.
      client.send(sent);
      await until('it reads', () => hasRead(chain, client));
      served.kill('SIGTERM');
      const { code, signal } = await served.ended;
      assert.deepEqual([code, signal], [111, null], options[0]);
      assert.equal(await client.rest().catch(() => ''), '');
    }
  });

  it('gives smtpd the three standard descriptors and no others', async (t) => {
    const chain = await listen(t, { options: ['-f'], command: PLAIN_SMTPD });
    const client = await connectTo(t, chain);
    await client.reply();
    const { pid } = await chain.served(0);
    const connection = targetOf(pid, 0);
    for (const startsTls of [false, true]) {
      if (startsTls) await client.startTls();
      assert.equal(await client.ask('NOOP'), '250 ok');
      await until('one smtpd is left', () => childrenOf(pid).length === 1);
      const [smtpd = 0] = childrenOf(pid);
      const descriptors = readdirSync(`/proc/${smtpd}/fd`);
      const targets = descriptors.map((fd) => targetOf(smtpd, Number(fd)));
      // The test itself may have inherited descriptors that stay open.
      const own = readdirSync('/proc/self/fd').filter((fd) => Number(fd) > 2);
      assert.deepEqual(
        descriptors.filter((fd) => !own.includes(fd)),
        ['0', '1', '2'],
      );
      assert.ok(!targets.includes(connection));
    }
  });

  it('resumes the sessions of another process with the same keys, and of no other', async (t) => {
    const file = join(folder, 'ticket-keys');
    const other = join(folder, 'other-ticket-keys');
    writeFileSync(file, randomBytes(48));
    writeFileSync(other, `${randomBytes(48).toString('base64')}\n`);
    const chain = await listen(t, { options: ['--ticket-keys', file] });
    const stranger = await listen(t, { options: ['--ticket-keys', other] });
    const first = await connectTo(t, chain);
    await first.reply();
    await first.startTls();
    const session = new Promise<Buffer>((resolve) => first.tls().once('session', resolve));
    assert.match(await first.ask('NOOP'), /^250 /);
    const ticket = await session;
    const second = await connectTo(t, chain);
    await second.reply();
    await second.startTls({ session: ticket });
    assert.match(await second.ask('NOOP'), /^250 /);
    assert.equal(second.tls().isSessionReused(), true);
    const third = await connectTo(t, stranger);
    await third.reply();
    await third.startTls({ session: ticket });
    assert.match(await third.ask('NOOP'), /^250 /);
    assert.equal(third.tls().isSessionReused(), false);
  });

  it('changes the user after reading the keys', {
    skip: process.getuid?.() === 0 ? false : 'not root',
  }, async (t) => {
    const chain = await listen(t, {
      options: ['-u', String(NOBODY_UID), '-g', String(NOBODY_UID)],
      command: PLAIN_SMTPD,
    });
    const client = await connectTo(t, chain);
    await client.reply();
    const { pid } = await chain.served(0);
    const [smtpd = 0] = childrenOf(pid);
    const ids = [NOBODY_UID, NOBODY_UID, NOBODY_UID, NOBODY_UID].join(' ');
    for (const one of [pid, smtpd]) {
      assert.equal(statusOf(one, 'Uid'), ids);
      assert.equal(statusOf(one, 'Gid'), ids);
    }
    await client.startTls();
    assert.equal(await client.ask('NOOP'), '250 ok');
  });
});

describe('smtpd-starttls-proxy --proxy-protocol', { concurrency: 3, timeout: 60_000 }, () => {
  const options = ['--proxy-protocol', '127.0.0.0/8'];

  it('uses the addresses of the header, even when commands follow in the same packet', async (t) => {
    const chain = await listen(t, { options, environment: { TCPREMOTEHOST: 'proxy.example' } });
    const client = await connectTo(t, chain);
    client.send('PROXY TCP6 2001:db8::1 2001:db8::2 4000 25\r\nNOOP\r\n');
    assert.equal(await client.reply(), '220 smtpd-script ready');
    assert.match(await client.reply(), /^250 /);
    const environment = await environmentOf(client);
    assert.equal(environment.TCPREMOTEIP, '2001:db8::1');
    assert.equal(environment.TCPREMOTEPORT, '4000');
    assert.equal(environment.TCPLOCALIP, '2001:db8::2');
    assert.equal(environment.TCPLOCALPORT, '25');
    // It is the name of the proxy.
    assert.equal(environment.TCPREMOTEHOST, undefined);
    await client.startTls();
    assert.match(await client.ask('NOOP'), /^250 /);
  });

  for (const level of ['-k0', '-k1']) {
    it(`does TLS with a ClientHello in the same packet as the header, with ${level}`, async (t) => {
      const chain = await listen(t, {
        options: [...options, '--implicit-tls', level],
        environment: NO_UCSPI_TCP,
      });
      const socket = connectTcp(chain.port, '127.0.0.1');
      t.after(() => socket.destroy());
      let isFirst = true;
      const wire = Duplex.from({
        readable: socket,
        writable: async (pieces: AsyncIterable<Buffer>) => {
          for await (const piece of pieces) {
            const header = Buffer.from(isFirst ? 'PROXY TCP4 192.0.2.1 192.0.2.2 4000 465\r\n' : '');
            isFirst = false;
            socket.write(Buffer.concat([header, piece]));
          }
        },
      });
      const tls = await startTls(wire, { servername: 'localhost' });
      const received = collect(tls);
      tls.write('XDO environment\r\nQUIT\r\n');
      assert.match(await received.all, /"TCPREMOTEIP":"192\.0\.2\.1"/);
    });
  }

  for (const [what, networks, sent] of [
    ['a connection from elsewhere', '192.0.2.0/24', 'PROXY TCP4 192.0.2.1 192.0.2.2 4000 25\r\n'],
    ['a missing header', '127.0.0.1', 'EHLO client\r\n'],
    [
      'a header of an unsupported version',
      '127.0.0.1',
      Buffer.from('0d0a0d0a000d0a515549540a31110000', 'hex'),
    ],
  ] as const) {
    it(`closes ${what}, with no reply to the client and one line on stderr`, async (t) => {
      const chain = await listen(t, { options: ['--proxy-protocol', networks] });
      const client = await connectTo(t, chain);
      client.send(sent);
      assert.equal(await client.rest().catch(() => ''), '');
      const served = await chain.served(0);
      assert.equal((await served.ended).code, 111);
      assert.match(served.stderr(), /^smtpd-starttls-proxy: warning: unable to [^\n]*127\.0\.0\.1[^\n]*\n$/);
    });
  }

  it('closes a connection that ends in the header', async (t) => {
    const chain = await listen(t, { options });
    const client = await connectTo(t, chain);
    client.send('PROXY TCP4 192.0.2.1 ');
    client.end();
    assert.equal(await client.rest().catch(() => ''), '');
    assert.equal((await (await chain.served(0)).ended).code, 111);
  });
});

describe('smtpd-starttls-proxy --to', { concurrency: 3, timeout: 60_000 }, () => {
  it('connects to a server on the network, and sends it the client address and TLS session', async (t) => {
    const headers: string[] = [];
    const port = await listenTcp(t, (socket) => {
      socket.once('data', (header: Buffer) => {
        headers.push(header.toString('latin1'));
        socket.write('220 backend\r\n');
        socket.on('data', (line: Buffer) =>
          socket.write(line.includes('QUIT') ? '221 bye\r\n' : '250 ok\r\n'),
        );
      });
      socket.on('end', () => socket.end());
    });
    const chain = await listen(t, {
      options: ['-f', '--send-proxy', 'v2', '--to', `127.0.0.1:${port}`],
      command: [],
    });
    const client = await connectTo(t, chain);
    assert.equal(await client.reply(), '220 backend');
    await client.startTls();
    assert.equal(await client.ask('NOOP'), '250 ok');
    assert.equal(headers.length, 2);
    for (const header of headers) assert.ok(header.startsWith('\r\n\r\n\0\r\nQUIT\n\x21\x11'));
    assert.ok(!headers[0]?.includes('TLSv1.3'));
    assert.ok(headers[1]?.includes('TLSv1.3'));
    assert.equal(await client.ask('QUIT'), '221 bye');
    client.end();
    assert.equal((await (await chain.served(0)).ended).code, 0);
  });

  it('sends 421 when the server is unreachable, and exits with 111', async (t) => {
    const free = await closedPort();
    const chain = await listen(t, { options: ['--to', `127.0.0.1:${free}`], command: [] });
    const client = await connectTo(t, chain);
    assert.match(await client.reply(), /^421 4\.3\.0 /);
    client.end();
    const served = await chain.served(0);
    assert.equal((await served.ended).code, 111);
    assert.equal(
      served.stderr(),
      `smtpd-starttls-proxy: fatal: cannot reach 127.0.0.1:${free}: ECONNREFUSED (nothing listens there)\n`,
    );
  });

  it('connects to a Unix socket, and sends it the client address', async (t) => {
    const path = join(folder, 'smtpd');
    const backend = makeBackend(endOfV1);
    await listenUnix(t, path, backend.serve);
    const options = ['--send-proxy', 'v1', '--to', `unix:${path}`];
    const chain = await listen(t, { options, command: [] });
    const client = await connectTo(t, chain);
    assert.equal(await client.reply(), '220 backend');
    await client.startTls();
    assert.equal(await client.ask('QUIT'), '221 bye');
    client.end();
    assert.equal((await (await chain.served(0)).ended).code, 0);
    const [received] = backend.connections.map((connection) => connection.received.toString('latin1'));
    assert.match(
      received ?? '',
      new RegExp(`^PROXY TCP4 127\\.0\\.0\\.1 127\\.0\\.0\\.1 \\d+ ${chain.port}\r\nRSET\r\nQUIT\r\n$`),
    );
  });

  it('sends 421 when nothing listens on the Unix socket, and exits with 111', async (t) => {
    const path = join(folder, 'nothing');
    const chain = await listen(t, { options: ['--to', `unix:${path}`], command: [] });
    const client = await connectTo(t, chain);
    assert.match(await client.reply(), /^421 4\.3\.0 /);
    client.end();
    const served = await chain.served(0);
    assert.equal((await served.ended).code, 111);
    assert.equal(
      served.stderr(),
      `smtpd-starttls-proxy: fatal: cannot reach unix:${path}: ENOENT (no such socket)\n`,
    );
  });
});

describe('descriptors 0 and 1 of smtpd-starttls-proxy', { concurrency: 3, timeout: 60_000 }, () => {
  it('may be two pipes', async (t) => {
    // Pipes made by the shell: those of Node are sockets.
    const command = commandOf({}).map((word) => `'${word}'`);
    const child = spawn('sh', ['-c', `cat | ${command.join(' ')} | cat`], {
      env: { ...process.env, ...KEYS },
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    t.after(() => child.kill('SIGKILL'));
    const watched = watch(child);
    await converse(Duplex.from({ readable: child.stdout, writable: child.stdin }));
    await watched.ended;
    assert.equal(watched.stderr(), '');
  });

  it('may be two sockets without addresses', async (t) => {
    const [file = '', ...args] = commandOf({});
    const child = spawn(file, args, { env: { ...process.env, ...KEYS }, stdio: ['pipe', 'pipe', 'pipe'] });
    t.after(() => child.kill('SIGKILL'));
    const watched = watch(child);
    await converse(Duplex.from({ readable: child.stdout, writable: child.stdin }));
    assert.equal((await watched.ended).code, 0);
    assert.equal(watched.stderr(), '');
  });

  it('may be one Unix socket', async (t) => {
    const path = join(folder, 'socket');
    const [file = '', ...args] = commandOf({ options: ['-v', '2', '-l', 'here.example'] });
    const ended = new Promise<{ code: number | null; stderr: string }>((resolve, reject) => {
      const server = createServer({ pauseOnConnect: true }, (socket) => {
        const child = spawn(file, args, {
          env: { ...process.env, ...KEYS },
          stdio: [socket, socket, 'pipe'],
        });
        socket.destroy();
        t.after(() => child.kill('SIGKILL'));
        const watched = watch(child);
        watched.ended.then(({ code }) => resolve({ code, stderr: watched.stderr() }), reject);
      });
      server.listen(path);
      t.after(() => void server.close());
    });
    const socket = connectTcp(path);
    t.after(() => socket.destroy());
    const environment = await converse(socket);
    assert.equal(environment.TCPREMOTEIP, undefined);
    assert.equal(environment.TCPLOCALHOST, 'here.example');
    const { code, stderr } = await ended;
    assert.equal(code, 0);
    assert.match(stderr, /^smtpd-starttls-proxy: info: TLS with an unknown address: TLSv1\.3, /);
  });

  /** Runs a session with STARTTLS and returns the environment of smtpd. */
  async function converse(stream: Duplex): Promise<NodeJS.ProcessEnv> {
    let received = '';
    await new Promise<void>((resolve, reject) => {
      stream.on('data', function onData(bytes: Buffer) {
        received += bytes.toString('latin1');
        // The greeting, and the reply to STARTTLS.
        if (!/\n220 [^\n]*\n/.test(received)) return;
        stream.off('data', onData);
        resolve();
      });
      stream.once('end', () => reject(new Error(`the stream ended after ${received}`)));
      stream.write('STARTTLS\r\n');
    });
    const tls = await startTls(stream);
    const session = collect(tls);
    tls.write('XDO environment\r\nQUIT\r\n');
    const replies = await session.all;
    assert.match(replies, /\r\n221 [^\n]*\r\n$/);
    tls.end();
    return JSON.parse(replies.slice(4).replace(/\r\n.*/s, ''));
  }
});

describe('the exit status of smtpd-starttls-proxy', { concurrency: 3, timeout: 60_000 }, () => {
  const program = ours('smtpd-starttls-proxy');

  it('is that of smtpd', async () => {
    const { status, stdout } = await run(
      [program, ...fixture('smtpd-script', '--start=line 554 no; exit 42')],
      {
        environment: KEYS,
      },
    );
    assert.equal(stdout, '554 no\r\n');
    assert.equal(status, 42);
  });

  it('is 126 when smtpd cannot be executed, 127 when it does not exist, and the client receives 421', async () => {
    const file = join(folder, 'not-to-be-run');
    writeFileSync(file, '#!/bin/sh\n');
    chmodSync(file, 0o644);
    for (const [name, expected] of [
      [file, 126],
      ['/nowhere/smtpd', 127],
    ] as const) {
      const { status, stdout, stderr } = await run([program, name], { environment: KEYS });
      assert.equal(status, expected);
      assert.match(stdout, /^421 4\.3\.0 [^\n]*\r\n$/);
      assert.match(stderr, /^smtpd-starttls-proxy: fatal: cannot run [^\n]*\n$/);
    }
  });

  for (const [what, options, environment, expected] of [
    ['a missing smtpd command', [], KEYS, 100],
    ['an unknown option', ['--nonsense', 'true'], KEYS, 100],
    ['an option of the server', ['--workers', '2', 'true'], KEYS, 100],
    ['an smtpd and --to', ['--to', '127.0.0.1:25', 'true'], KEYS, 100],
    ['a Unix socket without a path', ['--to', 'unix:'], KEYS, 100],
    ['--send-proxy without --to', ['--send-proxy', 'v1', 'true'], KEYS, 100],
    ['a wrong version', ['--send-proxy', 'v3', '--to', '127.0.0.1:25'], KEYS, 100],
    ['a wrong network', ['--proxy-protocol', '127.0.0.1/40', 'true'], KEYS, 100],
    ['-u and -U', ['-U', '-u', '1', 'true'], KEYS, 100],
    ['-v without a level', ['-v', 'true'], KEYS, 100],
    ['-q and -v', ['-q', '-v', '2', 'true'], KEYS, 100],
  ] as const) {
    it(`is ${expected} for ${what}, with one line on stderr`, async () => {
      const { status, stdout, stderr } = await run([program, ...options], { environment });
      assert.equal(status, expected, stderr);
      assert.equal(stdout, '');
      assert.match(stderr, /^smtpd-starttls-proxy: (?:fatal|usage): [^\n]+\n$/);
    });
  }

  for (const [what, options, environment, expected] of [
    ['no certificate', ['true'], { CERTFILE: undefined, KEYFILE: undefined }, 100],
    [
      'a key of another certificate',
      ['true'],
      { ...KEYS, KEYFILE: certificates.selfSigned('x').keyFile },
      100,
    ],
    ['an invalid certificate', ['true'], { ...KEYS, CERTFILE: '/dev/null' }, 100],
    ['a missing key', ['true'], { ...KEYS, KEYFILE: '/nowhere/key' }, 111],
    ['no authorities for -y', ['-y', 'true'], { ...KEYS, CAFILE: undefined, CADIR: undefined }, 100],
    ['missing ticket keys', ['--ticket-keys', '/nowhere/keys', 'true'], KEYS, 111],
    ['invalid ticket keys', ['--ticket-keys', '/dev/null', 'true'], KEYS, 100],
  ] as const) {
    it(`is ${expected} for ${what}, with one line on stderr and 421 for the client`, async () => {
      const { status, stdout, stderr } = await run([program, ...options], { environment });
      assert.equal(status, expected, stderr);
      assert.match(stdout, /^421 4\.3\.0 [^\n]+\r\n$/);
      assert.match(stderr, /^smtpd-starttls-proxy: fatal: [^\n]+\n$/);
    });
  }

  it('is 111 when the key cannot be read, with no reply to the client if TLS is implicit', async () => {
    const { status, stdout, stderr } = await run([program, '--implicit-tls', 'true'], {
      environment: { ...KEYS, KEYFILE: '/nowhere/key' },
    });
    assert.deepEqual([status, stdout], [111, '']);
    assert.match(stderr, /^smtpd-starttls-proxy: fatal: [^\n]*ENOENT[^\n]*\n$/);
  });

  for (const sends of ['nothing', 'commands']) {
    it(`is 111 when the key cannot be read, and the client sends ${sends} and stays connected`, async (t) => {
      const chain = await listen(t, { environment: { KEYFILE: '/nowhere/key' } });
      const client = await connectTo(t, chain);
      if (sends === 'commands') client.sendLines('EHLO client.example', 'MAIL FROM:<a@b>');
      assert.match(await client.rest(), /^421 4\.3\.0 [^\n]+\r\n$/);
      const served = await chain.served(0);
      assert.equal((await served.ended).code, 111);
      assert.match(served.stderr(), /^smtpd-starttls-proxy: fatal: [^\n]*ENOENT[^\n]*\n$/);
    });
  }
});
