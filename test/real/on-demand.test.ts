/** --on-demand with real smtpds and programs in front of them, and with real clients. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { watch } from '../support/chain.ts';
import { assertInMailbox, eximIn } from '../support/exim.ts';
import { childrenOf, until } from '../support/processes.ts';
import { missing, ours } from '../support/programs.ts';
import { run, tcpserver } from '../support/real.ts';
import { BODY, makeFolder, SUBJECT } from '../support/real-chain.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';
import { closedPort } from '../support/tcp.ts';

async function start(t: TestContext, smtpd: readonly string[], ...options: string[]): Promise<RunningServer> {
  const server = await startServer(['--on-demand', '-v', '2', ...options], smtpd);
  t.after(server.close);
  return server;
}

/** A session in TLS, after EHLO. `header` is sent first. */
async function connectTls(t: TestContext, port: number, header = ''): Promise<SmtpClient> {
  const client = await connectSmtp(port);
  t.after(client.destroy);
  client.send(header);
  assert.match(await client.reply(), /^220 /);
  assert.match(await client.ask('EHLO client.example'), /^250 STARTTLS$/m);
  await client.startTls();
  assert.match(await client.ask('EHLO client.example'), /^250 /m);
  return client;
}

describe('mailfront on demand', { skip: missing('mailfront', 'swaks'), concurrency: 3 }, () => {
  const MAILFRONT = ['mailfront', 'smtp', 'echo', 'accept'];

  it('takes a mail of swaks in TLS, and is not started for a client that only greets', async (t) => {
    const server = await start(t, MAILFRONT);
    const target = ['--server', `127.0.0.1:${server.port}`, '--tls'];
    const probe = await run(['swaks', ...target, '--quit-after', 'EHLO']);
    assert.equal(probe.status, 0, probe.stdout);
    await server.logs(/event=end .*smtpd=none/);
    const mail = await run(['swaks', ...target, '--from', 'alice@example.org', '--to', 'bob@example.net']);
    assert.equal(mail.status, 0, mail.stdout);
    await server.logs(/event=end .*smtpd=\d+ status=0/);
  });

  it('takes a mail of swaks by PIPELINING in cleartext', async (t) => {
    const server = await start(t, MAILFRONT);
    const sender = ['--from', 'alice@example.org', '--to', 'bob@example.net,carol@example.net'];
    const mail = await run(['swaks', '--server', `127.0.0.1:${server.port}`, '--pipeline', ...sender]);
    assert.equal(mail.status, 0, mail.stdout);
  });
});

describe('an smtpd with the habits of qmail-smtpd on demand', { concurrency: 3 }, () => {
  // It takes MAIL without HELO, writes no reply before it reads again, and closes at QUIT without waiting.
  const QMAIL = [
    'sh',
    '-c',
    `printf '220 mail.example ESMTP\\r\\n'
    while read -r verb rest; do
      case "$verb" in
        [Ee][Hh][Ll][Oo]*) printf '250-mail.example\\r\\n250-PIPELINING\\r\\n250 8BITMIME\\r\\n' ;;
        [Qq][Uu][Ii][Tt]*) printf '221 mail.example\\r\\n'; exit 0 ;;
        [Dd][Aa][Tt][Aa]*) printf '354 go ahead\\r\\n'
          while read -r line && [ "$line" != "$(printf '.\\r')" ]; do :; done
          printf '250 ok 1700000000 qp 1\\r\\n' ;;
        *) printf '250 ok\\r\\n' ;;
      esac
    done`,
  ];

  for (const hello of ['HELO me', undefined]) {
    it(`takes a mail ${hello === undefined ? 'without HELO' : 'after HELO'}, all of it in one piece`, async (t) => {
      const server = await start(t, QMAIL);
      const client = await connectSmtp(server.port);
      t.after(client.destroy);
      const mail = ['MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'DATA', 'Subject: x', '', 'hello', '.', 'QUIT'];
      client.sendLines(...(hello === undefined ? [] : [hello]), ...mail);
      const replies = (await client.rest()).match(/^\d{3}/gm);
      const expected = ['220', ...(hello === undefined ? [] : ['250']), '250', '250', '354', '250', '221'];
      assert.deepEqual(replies, expected);
      client.end();
      await server.logs(/event=end .*smtpd=\d+ status=0/);
    });
  }
});

describe('rblsmtpd in front of an smtpd on demand', { skip: missing('rblsmtpd', 'mailfront') }, () => {
  /** Blocks 192.0.2.66, as a list of addresses would. */
  const SMTPD = [
    'sh',
    '-c',
    '[ "$TCPREMOTEIP" = 192.0.2.66 ] && block="Blocked by a test"; export RBLSMTPD="$block"; exec rblsmtpd mailfront smtp echo accept',
  ];

  it('refuses the client that it lists, at RCPT, and serves others', async (t) => {
    const server = await start(t, SMTPD, '--proxy-protocol', '127.0.0.1');
    const listed = await connectTls(t, server.port, 'PROXY TCP4 192.0.2.66 192.0.2.1 4711 25\r\n');
    assert.equal(await listed.ask('MAIL FROM:<a@b>'), '250 rblsmtpd.local');
    assert.equal(await listed.ask('RCPT TO:<c@d>'), '451 Blocked by a test');
    assert.equal(await listed.ask('QUIT'), '221 rblsmtpd.local');
    const other = await connectTls(t, server.port, 'PROXY TCP4 192.0.2.1 192.0.2.1 4711 25\r\n');
    assert.match(await other.ask('MAIL FROM:<a@b>'), /^250 Sender/);
  });
});

describe('exim on demand', {
  skip:
    process.getuid?.() === 0 ? missing('exim4', 'swaks') : 'exim takes another configuration from root alone',
}, () => {
  it('has the address and the name of the client, and the introduction has neither', async (t) => {
    const folder = makeFolder(t);
    const server = await start(t, eximIn(folder), '--proxy-protocol', '127.0.0.1');
    const client = await connectSmtp(server.port);
    t.after(client.destroy);
    client.send('PROXY TCP4 192.0.2.7 192.0.2.1 4711 25\r\n');
    await client.reply();
    assert.match(await client.ask('EHLO client.example'), /^250-mail\.example\.org\n/);
    await client.startTls();
    await client.ask('EHLO client.example');
    assert.deepEqual(childrenOf(server.pid), []);
    assert.match(await client.ask('MAIL FROM:<alice@example.org>'), /^250 /);
    assert.match(await client.ask('RCPT TO:<victim@elsewhere.example>'), /^550 relay not permitted$/);
    assert.match(await client.ask('RCPT TO:<bob@example.net>'), /^250 /);
    assert.match(await client.ask('DATA'), /^354 /);
    const message = `Subject: ${SUBJECT}\n\n${BODY.replaceAll(/^\./gm, '..')}\n`;
    client.send(message.replaceAll('\n', '\r\n'));
    assert.match(await client.ask('.'), /^250 /);
    await client.ask('QUIT');
    await assertInMailbox(folder);
    assert.match(
      readFileSync(join(folder, 'mailbox'), 'latin1'),
      /^Received: from \[192\.0\.2\.7\].*client\.example/m,
    );
  });
});

describe('HAProxy in front of smtpds on demand', { skip: missing('haproxy', 'mailfront') }, () => {
  it('has the client served, and its checks cost no process', async (t) => {
    const server = await start(t, ['mailfront', 'smtp', 'echo', 'accept'], '--proxy-protocol', '127.0.0.1');
    const port = await closedPort();
    const file = join(makeFolder(t), 'haproxy.cfg');
    writeFileSync(
      file,
      `defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
listen smtp
  bind 127.0.0.1:${port}
  option smtpchk EHLO haproxy.example
  server one 127.0.0.1:${server.port} send-proxy-v2 check check-send-proxy inter 200ms
`,
    );
    const child = spawn('haproxy', ['-db', '-f', file], { stdio: ['ignore', 'ignore', 'pipe'] });
    const haproxy = watch(child);
    t.after(async () => {
      child.kill('SIGKILL');
      await haproxy.ended;
    });
    await until('HAProxy has checked the server', () => server.stderr().split('smtpd=none').length > 3);
    assert.deepEqual(childrenOf(server.pid), []);
    const client = await connectTls(t, port);
    assert.match(await client.ask('MAIL FROM:<a@b>'), /^250 Sender/);
    assert.equal(childrenOf(server.pid).length, 1);
  });
});

describe('tcpserver behind a server with --on-demand and --to', {
  skip: missing('tcpserver', 'swaks'),
}, () => {
  it('starts a program for the mail, and none for the probe', async (t) => {
    const maildir = join(makeFolder(t), 'Maildir');
    const backend = await tcpserver(t, [
      'sh',
      '-c',
      'echo started >&2; exec "$@"',
      'sh',
      ours('smtpd-maildir'),
      maildir,
    ]);
    const server = await start(t, [], '--to', `127.0.0.1:${backend.port}`);
    const count = (): number => backend.stderr().split('started').length - 1;
    const target = ['--server', `127.0.0.1:${server.port}`, '--tls'];
    assert.equal((await run(['swaks', ...target, '--quit-after', 'EHLO'])).status, 0);
    assert.equal(count(), 1, 'the introduction alone');
    const mail = await run(['swaks', ...target, '--from', 'alice@example.org', '--to', 'bob@example.net']);
    assert.equal(mail.status, 0, mail.stdout);
    assert.equal(count(), 2);
  });
});
