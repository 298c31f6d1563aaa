/** The server before an SMTP server on the network, in place of a program (--to). */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import type { ConnectionOptions } from 'node:tls';
import { exchange } from '../reliability/exchange.ts';
import {
  type Backend,
  BIG_MESSAGE,
  endOfV1,
  endOfV2,
  makeBackend,
  refuseMessage,
} from '../support/backend.ts';
import { makeCertificates, type Pair } from '../support/certificate.ts';
import { until } from '../support/processes.ts';
import { fixture, missing, ours } from '../support/programs.ts';
import { tcpserver } from '../support/real.ts';
import { type RunningServer, type ServerSetup, startServer } from '../support/server.ts';
import { connectTo, type SmtpClient } from '../support/smtp-client.ts';
import { closedPort, listenTcp } from '../support/tcp.ts';

const certificates = makeCertificates();
const authority = certificates.selfSigned('authority');
const CAFILE: NodeJS.ProcessEnv = { CAFILE: authority.certFile };
const folder = mkdtempSync(join(tmpdir(), 'server-backend-'));

after(() => {
  certificates.remove();
  rmSync(folder, { recursive: true, force: true });
});

async function startFront(
  t: TestContext,
  port: number,
  options: readonly string[] = [],
  setup: ServerSetup = {},
): Promise<RunningServer> {
  const server = await startServer(['--to', `127.0.0.1:${port}`, ...options], [], setup);
  t.after(server.close);
  return server;
}

function localPortOf(client: SmtpClient): number {
  const socket = client.socket();
  assert.ok('localPort' in socket && typeof socket.localPort === 'number');
  return socket.localPort;
}

async function startBackend(
  t: TestContext,
  headerEnd?: Parameters<typeof makeBackend>[0],
): Promise<Backend & { readonly port: number }> {
  const backend = makeBackend(headerEnd);
  return { ...backend, port: await listenTcp(t, backend.serve) };
}

/** The contents of a header of version 2, parsed by hand. */
interface HeaderV2 {
  readonly addresses: string;
  readonly tls?: {
    readonly client: number;
    readonly verify: number;
    readonly fields: Record<string, string>;
  };
}

const SSL_FIELDS: Readonly<Record<number, string>> = { 33: 'version', 34: 'commonName', 35: 'cipher' };

function readV2(received: Buffer): HeaderV2 {
  assert.equal(received.toString('latin1', 0, 12), '\r\n\r\n\0\r\nQUIT\n');
  // Version 2, PROXY; TCP over IPv4.
  assert.deepEqual([...received.subarray(12, 14)], [0x21, 0x11]);
  const end = endOfV2(received) ?? 0;
  const [from, to] = [received.subarray(16, 20), received.subarray(20, 24)].map((ip) => ip.join('.'));
  const addresses = `${from}:${received.readUInt16BE(24)} ${to}:${received.readUInt16BE(26)}`;
  const [ssl, ...others] = readTlvs(received.subarray(28, end));
  assert.deepEqual(others, []);
  if (ssl === undefined) return { addresses };
  assert.equal(ssl.type, 0x20);
  const fields = readTlvs(ssl.value.subarray(5)).map(({ type, value }) => [
    SSL_FIELDS[type],
    value.toString(),
  ]);
  const tls = {
    client: ssl.value.readUInt8(0),
    verify: ssl.value.readUInt32BE(1),
    fields: Object.fromEntries(fields),
  };
  return { addresses, tls };
}

function readTlvs(bytes: Buffer): { type: number; value: Buffer }[] {
  if (bytes.length === 0) return [];
  const end = 3 + bytes.readUInt16BE(1);
  assert.ok(end <= bytes.length);
  return [{ type: bytes.readUInt8(0), value: bytes.subarray(3, end) }, ...readTlvs(bytes.subarray(end))];
}

function shown({ certFile, keyFile }: Pair): ConnectionOptions {
  return { cert: readFileSync(certFile), key: readFileSync(keyFile) };
}

/** A certificate with a subject in the syntax of openssl. */
function withSubject(subject: string): Pair {
  const certFile = join(folder, 'subject.cert.pem');
  const keyFile = join(folder, 'subject.key.pem');
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', keyFile];
  const signer = ['-CA', authority.certFile, '-CAkey', authority.keyFile];
  const command = [
    'req',
    '-x509',
    ...key,
    '-utf8',
    '-subj',
    subject,
    '-days',
    '3',
    '-out',
    certFile,
    ...signer,
  ];
  execFileSync('openssl', command, { stdio: 'pipe' });
  return { certFile, keyFile };
}

describe('a backend that is sent the client’s address', { concurrency: 3, timeout: 60_000 }, () => {
  it('receives no header without --send-proxy', async (t) => {
    const backend = await startBackend(t);
    const server = await startFront(t, backend.port);
    const client = await connectTo(t, server);
    assert.equal(await client.reply(), '220 backend');
    assert.equal(await client.ask('NOOP'), '250 ok');
    assert.equal(backend.connections[0]?.received.toString(), 'NOOP\r\n');
    await client.startTls();
    assert.equal(await client.ask('QUIT'), '221 bye');
    client.end();
    assert.equal(await client.rest(), '');
    assert.equal(backend.connections.length, 1);
  });

  it('by version 1', async (t) => {
    const backend = await startBackend(t, endOfV1);
    const server = await startFront(t, backend.port, ['--send-proxy', 'v1']);
    const client = await connectTo(t, server);
    assert.equal(await client.reply(), '220 backend');
    assert.equal(
      backend.connections[0]?.received.toString(),
      `PROXY TCP4 127.0.0.1 127.0.0.1 ${localPortOf(client)} ${server.port}\r\n`,
    );
    await client.startTls();
    assert.equal(await client.ask('NOOP'), '250 ok');
  });

  it('by version 2, and by another with TLS when it is asked for a fresh session', async (t) => {
    const backend = await startBackend(t, endOfV2);
    const server = await startFront(t, backend.port, ['-f', '--send-proxy', 'v2']);
    const client = await connectTo(t, server);
    await client.reply();
    const addresses = `127.0.0.1:${localPortOf(client)} 127.0.0.1:${server.port}`;
    await client.startTls({ maxVersion: 'TLSv1.2' });
    assert.equal(await client.ask('NOOP'), '250 ok');
    const [first, second] = backend.connections.map(({ received }) => readV2(received));
    assert.deepEqual(first, { addresses });
    const cipher = client.tls().getCipher().name;
    // No certificate was requested, so "verify" is not zero.
    assert.deepEqual(second, {
      addresses,
      tls: { client: 1, verify: 1, fields: { version: 'TLSv1.2', cipher } },
    });
  });

  it('by version 2 with TLS at once when TLS is implicit', async (t) => {
    const backend = await startBackend(t, endOfV2);
    const server = await startFront(t, backend.port, ['--implicit-tls', '--send-proxy', 'v2']);
    const client = await connectTo(t, server);
    const addresses = `127.0.0.1:${localPortOf(client)} 127.0.0.1:${server.port}`;
    await client.shakeHands();
    assert.equal(await client.reply(), '220 backend');
    const [{ received } = { received: Buffer.alloc(0) }] = backend.connections;
    assert.equal(readV2(received).addresses, addresses);
    assert.equal(readV2(received).tls?.fields.version, 'TLSv1.3');
  });

  for (const [what, subject, commonName] of [
    ['the name', '/O=Example/CN=client.example', 'client.example'],
    ['a name of Unicode', '/CN=Jörg/O=Example', 'Jörg'],
    ['a name with commas and backslashes', '/CN=a, b\\\\c/O=Example', 'a, b\\c'],
    ['no name that another field makes up', '/CN=client.example/O=Example,CN=admin', 'client.example'],
    ['no name where there is none', '/O=Example,CN=admin', undefined],
  ] as const) {
    it(`is sent ${what} of a verified client certificate`, async (t) => {
      const backend = await startBackend(t, endOfV2);
      const options = ['-f', '-y', '--send-proxy', 'v2'];
      const server = await startFront(t, backend.port, options, { environment: CAFILE });
      const client = await connectTo(t, server);
      await client.reply();
      await client.startTls(shown(withSubject(subject)));
      assert.equal(await client.ask('NOOP'), '250 ok');
      const { tls } = readV2(backend.connections[1]?.received ?? Buffer.alloc(0));
      assert.equal(tls?.fields.commonName, commonName);
      // TLS, and a certificate both on this connection and in this session.
      assert.equal(tls?.client, 7);
      assert.equal(tls?.verify, 0);
    });
  }
});

describe('a backend that fails', { concurrency: 3, timeout: 60_000 }, () => {
  it('refuses connections: 421, and a line in the log', async (t) => {
    const port = await closedPort();
    const server = await startFront(t, port);
    const client = await connectTo(t, server);
    assert.match(await client.reply(), /^421 4\.3\.0 /);
    assert.equal(await client.rest(), '');
    client.end();
    await server.logs(
      /: warning: event=session id=\S+ remote=\S+ smtpd=\S+ text="cannot reach 127\.0\.0\.1:\d+: ECONNREFUSED \(nothing listens there\)"\n/,
    );
  });

  it('refuses connections: ten lines a second at most', async (t) => {
    const server = await startFront(t, await closedPort());
    while (!server.stderr().includes('suppressed=')) {
      const client = await connectTo(t, server);
      assert.match(await client.reply(), /^421 4\.3\.0 /);
      client.destroy();
    }
    assert.match(server.stderr(), / text="cannot reach [^"]*" suppressed=\d+\n/);
  });

  it('refuses connections under TLS: 421 in TLS', async (t) => {
    const server = await startFront(t, await closedPort(), ['--implicit-tls']);
    const client = await connectTo(t, server);
    await client.shakeHands();
    assert.match(await client.reply(), /^421 4\.3\.0 /);
    assert.equal(await client.rest(), '');
  });

  it('has a name that cannot be resolved: 421', async (t) => {
    const server = await startServer(['--to', 'nowhere.invalid:25'], []);
    t.after(server.close);
    const client = await connectTo(t, server);
    assert.match(await client.reply(), /^421 4\.3\.0 /);
    await server.logs(
      /text="cannot reach nowhere\.invalid:25: (?:ENOTFOUND \(no such host name\)|EAI_AGAIN \(.*\))"\n/,
    );
  });

  it('never greets: 421 after the idle timeout', async (t) => {
    const ended: boolean[] = [];
    const port = await listenTcp(t, (socket) => {
      socket.resume();
      socket.on('end', () => {
        ended.push(true);
        socket.end();
      });
    });
    const server = await startFront(t, port, ['-t', '1', '-v2']);
    const client = await connectTo(t, server);
    assert.match(await client.reply(), /^421 4\.4\.2 /);
    assert.equal(await client.rest(), '');
    client.end();
    await server.logs(/event=end .*verdict=close/);
    await until('the backend sees the end', () => ended.length > 0);
    assert.deepEqual(ended, [true]);
  });

  it('sends something other than SMTP: 421', async (t) => {
    const port = await listenTcp(t, (socket) => void socket.end('SSH-2.0-sshd\r\n'));
    const server = await startFront(t, port);
    const client = await connectTo(t, server);
    assert.match(await client.reply(), /^421 4\.3\.0 /);
  });

  it('closes before its greeting: 421', async (t) => {
    const port = await listenTcp(t, (socket) => void socket.end());
    const server = await startFront(t, port);
    const client = await connectTo(t, server);
    assert.match(await client.reply(), /^421 4\.3\.0 /);
  });

  for (const [when, command, secure] of [
    ['the dialogue', 'NOOP', false],
    ['cleartext', 'HELO client', false],
    ['TLS', 'NOOP', true],
  ] as const) {
    it(`resets during ${when}: 421, and a line in the log`, async (t) => {
      const backend = await startBackend(t);
      const server = await startFront(t, backend.port);
      const client = await connectTo(t, server);
      await client.reply();
      if (secure) await client.startTls();
      assert.equal(await client.ask(command), '250 ok');
      backend.connections[0]?.socket.resetAndDestroy();
      assert.match(await client.reply(), /^421 4\.3\.0 /);
      assert.equal(await client.rest(), '');
      client.end();
      await server.logs(/text="lost 127\.0\.0\.1:\d+: ECONNRESET"\n/);
    });
  }
});

describe('a session with a backend', { concurrency: 3, timeout: 60_000 }, () => {
  for (const secure of [false, true]) {
    const how = secure ? 'in TLS' : 'in cleartext';
    it(`a client that half-closes ${how} receives all that the backend still sends`, async (t) => {
      const port = await listenTcp(t, (socket) => {
        socket.write('220 backend\r\n');
        let received = '';
        socket.on('data', (bytes: Buffer) => {
          received += bytes.toString();
          if (/(?:RSET|HELO .*)\r\n$/.test(received)) socket.write('250 ok\r\n');
        });
        socket.on('end', () => socket.end(`250 received ${received.length}\r\n`));
      });
      const server = await startFront(t, port, ['-v2']);
      const client = await connectTo(t, server);
      await client.reply();
      if (secure) await client.startTls();
      else await client.ask('HELO client');
      client.sendLines('DATA');
      client.end();
      assert.equal(await client.rest(), `250 received ${secure ? 12 : 19}\r\n`);
      await server.logs(/event=end .* status=0 /);
    });

    it(`a backend that half-closes ${how} ends the session, and its last bytes arrive`, async (t) => {
      const backend = await startBackend(t);
      const server = await startFront(t, backend.port, ['-v2']);
      const client = await connectTo(t, server);
      await client.reply();
      if (secure) await client.startTls();
      else await client.ask('HELO client');
      backend.connections[0]?.socket.end('421 4.3.2 going down\r\n');
      assert.equal(await client.reply(), '421 4.3.2 going down');
      assert.equal(await client.rest(), '');
      client.end();
      await server.logs(/event=end .* status=0 /);
    });
  }

  for (const secure of [false, true]) {
    const how = secure ? 'in TLS' : 'in cleartext';
    it(`a backend that closes ${how} before it has read all: its last reply arrives`, async (t) => {
      const server = await startFront(t, await listenTcp(t, refuseMessage));
      const client = await connectTo(t, server);
      await client.reply();
      if (secure) await client.startTls();
      await client.ask('MAIL FROM:<me@example.org>');
      assert.equal(await client.ask('DATA'), '354 go');
      client.send(BIG_MESSAGE);
      assert.equal(await client.reply(), '552 5.3.4 too big');
    });
  }

  it('relays 20 MB each way at once, through two servers', async (t) => {
    const inner = await startServer(['--proxy-protocol', '127.0.0.1'], fixture('smtpd-script'));
    t.after(inner.close);
    const outer = await startFront(t, inner.port, ['--send-proxy', 'v2']);
    const client = await connectTo(t, outer);
    await client.reply();
    // The first STARTTLS is that of the outer server, which hides the one of the inner.
    assert.equal(await client.ask('EHLO client'), '250-smtpd-script\n250-8BITMIME\n250 STARTTLS');
    await client.startTls();
    // This ends the dialogue of the inner server.
    assert.match(await client.ask('MAIL FROM:<me@example.org>'), /^250 /);
    const { sent, sentAsRead, received, receivedAsWritten } = await exchange(client, 20_000_000, 'neither');
    assert.equal(sentAsRead, sent);
    assert.equal(receivedAsWritten, received);
  });

  it('ends at SIGTERM with 421, and the server with 0', async (t) => {
    const backend = await startBackend(t);
    const server = await startFront(t, backend.port, ['--grace', '0', '-f']);
    const silent = await connectTo(t, server);
    await silent.reply();
    const secure = await connectTo(t, server);
    await secure.reply();
    await secure.startTls();
    await secure.ask('NOOP');
    server.signal('SIGTERM');
    for (const client of [silent, secure]) {
      assert.match(await client.reply(), /^421 4\.3\.2 /);
      client.end();
    }
    assert.equal((await server.ended).code, 0);
  });

  it('works with smtpd-maildir behind another server, which is sent the client and its TLS', async (t) => {
    const maildir = join(folder, 'Maildir');
    const inner = await startServer(
      ['--proxy-protocol', '127.0.0.1', '-v2'],
      [ours('smtpd-maildir'), maildir],
    );
    t.after(inner.close);
    const outer = await startFront(t, inner.port, ['--send-proxy', 'v1', '--proxy-protocol', '127.0.0.1']);
    const client = await connectTo(t, outer);
    client.send('PROXY TCP4 192.0.2.7 192.0.2.25 4000 25\r\n');
    await client.reply();
    await client.startTls();
    await deliver(client);
    const [name = ''] = readdirSync(join(maildir, 'new'));
    assert.match(readFileSync(join(maildir, 'new', name), 'latin1'), /^ {2}\(\[192\.0\.2\.7\]\)$/m);
    await inner.logs(/event=end id=\S+ remote=192\.0\.2\.7:4000 proxy=127\.0\.0\.1 verdict=plaintext/);
  });

  it('works with mailfront under tcpserver', { skip: missing('tcpserver', 'mailfront') }, async (t) => {
    const behind = await tcpserver(t, ['mailfront', 'smtp', 'echo', 'accept']);
    const server = await startFront(t, behind.port);
    const client = await connectTo(t, server);
    await client.reply();
    await client.startTls();
    await deliver(client);
  });
});

async function deliver(client: SmtpClient): Promise<void> {
  for (const command of ['EHLO client.example', 'MAIL FROM:<me@example.org>', 'RCPT TO:<you@example.org>']) {
    assert.match(await client.ask(command), /^250[ -]/);
  }
  assert.match(await client.ask('DATA'), /^354 /);
  assert.match(await client.ask('Subject: hello\r\n\r\nhello\r\n.'), /^250 /);
  assert.match(await client.ask('QUIT'), /^221 /);
  client.end();
}
