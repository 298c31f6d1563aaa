/** The proxy for one connection under third-party super-servers. */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { watch } from '../support/chain.ts';
import { until } from '../support/processes.ts';
import { missing, ours } from '../support/programs.ts';
import { tcpserver } from '../support/real.ts';
import { makeFolder } from '../support/real-chain.ts';
import { connectSmtp } from '../support/smtp-client.ts';
import { closedPort } from '../support/tcp.ts';

const certificates = makeCertificates();
const pair = certificates.selfSigned('localhost');
const KEYS = { CERTFILE: pair.certFile, KEYFILE: pair.keyFile };

after(() => certificates.remove());

/** A command that delivers to a Maildir in `folder`. */
function proxyIn(folder: string): string[] {
  return [ours('smtpd-starttls-proxy'), '-v2', '--fresh', ours('smtpd-maildir'), join(folder, 'Maildir')];
}

/** Sends a message over STARTTLS and asserts that it arrives with the address of the client in it. */
async function assertDelivers(port: number, folder: string): Promise<void> {
  const client = await connectSmtp(port);
  assert.match(await client.reply(), /^220 /);
  assert.match(await client.ask('EHLO client.example'), /\n250 STARTTLS$/);
  await client.startTls();
  for (const command of ['EHLO client.example', 'MAIL FROM:<me@example.org>', 'RCPT TO:<you@example.org>']) {
    assert.match(await client.ask(command), /^250[ -]/);
  }
  assert.match(await client.ask('DATA'), /^354 /);
  assert.match(await client.ask('Subject: hello\r\n\r\nhello\r\n.'), /^250 /);
  assert.match(await client.ask('QUIT'), /^221 /);
  client.end();
  const [name = ''] = readdirSync(join(folder, 'Maildir/new'));
  const mail = readFileSync(join(folder, 'Maildir/new', name), 'latin1');
  assert.match(mail, /^Received: from client\.example\n {2}\((?:\S+ )?\[127\.0\.0\.1\]\)\n/m);
  assert.match(mail, /^ {2}with ESMTPS \(TLSv1\.3 /m);
}

/** Starts a super-server, until the end of the test. */
function start(t: TestContext, [file = '', ...args]: readonly string[]): ChildProcess {
  const child = spawn(file, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const { ended } = watch(child);
  t.after(async () => {
    child.kill('SIGTERM');
    await ended;
  });
  return child;
}

/** Whether a socket listens. Connecting to find out would be one more connection to serve. */
function isListening(port: number): boolean {
  const end = `:${port.toString(16).toUpperCase().padStart(4, '0')} `;
  const tables = ['/proc/net/tcp', '/proc/net/tcp6'].map((file) => readFileSync(file, 'latin1'));
  return tables.some((table) =>
    table.split('\n').some((line) => {
      const [, local = '', , state] = line.trim().split(/\s+/);
      return `${local} `.endsWith(end) && state === '0A';
    }),
  );
}

describe('smtpd-starttls-proxy', { concurrency: 3, timeout: 60_000 }, () => {
  it('runs under tcpserver', { skip: missing('tcpserver') }, async (t) => {
    const folder = makeFolder(t);
    const server = await tcpserver(t, proxyIn(folder), KEYS);
    await assertDelivers(server.port, folder);
    assert.match(server.stderr(), /^smtpd-starttls-proxy: info: TLS with 127\.0\.0\.1: TLSv1\.3, /m);
  });

  it('runs under xinetd', {
    skip: process.getuid?.() === 0 ? missing('xinetd') : 'it starts as root',
  }, async (t) => {
    const folder = makeFolder(t);
    const port = await closedPort();
    const script = join(folder, 'smtpd');
    const log = join(folder, 'log');
    // Under xinetd, stderr is connected to the client.
    const words = [process.execPath, ...proxyIn(folder)].map((word) => `'${word}'`).join(' ');
    writeFileSync(script, `#!/bin/sh\nexec 2>>${log}\nexec ${words}\n`, { mode: 0o755 });
    const configuration = join(folder, 'xinetd.conf');
    const environment = Object.entries(KEYS).map(([name, value]) => `${name}=${value}`);
    writeFileSync(
      configuration,
      `service smtp
{
  type = UNLISTED
  socket_type = stream
  protocol = tcp
  wait = no
  user = root
  bind = 127.0.0.1
  port = ${port}
  env = ${environment.join(' ')} PATH=${process.env.PATH}
  server = ${script}
}
`,
    );
    const child = start(t, [
      'xinetd',
      '-dontfork',
      '-filelog',
      join(folder, 'xinetd.log'),
      '-f',
      configuration,
    ]);
    await until('xinetd listens', () => child.exitCode !== null || isListening(port));
    await assertDelivers(port, folder);
    assert.match(
      readFileSync(log, 'latin1'),
      /^smtpd-starttls-proxy: info: TLS with 127\.0\.0\.1: TLSv1\.3, /m,
    );
  });

  it('runs under systemd, by systemd-socket-activate', {
    skip: missing('systemd-socket-activate'),
  }, async (t) => {
    const folder = makeFolder(t);
    const port = await closedPort();
    const environment = Object.entries(KEYS).flatMap(([name, value]) => ['-E', `${name}=${value}`]);
    const options = ['--inetd', '-a', '-l', `127.0.0.1:${port}`, ...environment, '-E', 'PATH'];
    const child = start(t, ['systemd-socket-activate', ...options, ...proxyIn(folder)]);
    await until('it listens', () => child.exitCode !== null || isListening(port));
    await assertDelivers(port, folder);
  });
});
