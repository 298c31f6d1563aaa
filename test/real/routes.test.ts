/** --routes of smtp-relay-io and of the server, between mail clients and mail servers of others: TLS, ssh, DNS. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { startDnsmasq } from '../support/dns.ts';
import { eximOnPipesIn, eximServerIn } from '../support/exim.ts';
import { until } from '../support/processes.ts';
import { missing, ours } from '../support/programs.ts';
import { type Outcome, run, type TcpServer, tcpserver } from '../support/real.ts';
import { makeFolder } from '../support/real-chain.ts';
import { startServer } from '../support/server.ts';
import { connectTo } from '../support/smtp-client.ts';
import { noSshd, type Sshd, startSshd } from '../support/sshd.ts';
import { closedPort } from '../support/tcp.ts';
import { DEADLINE } from '../support/within.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const pair = certificates.signedBy(authority, 'localhost');

const SKIP =
  process.getuid?.() === 0
    ? noSshd() || missing('tcpserver', 'exim4', 'swaks', 'msmtp', 'dnsmasq', '/usr/bin/python3')
    : 'exim takes another configuration from root alone';

/** Two senders; each sends by a server of its own. */
const [BY_TLS, BY_SSH] = ['alice@example.org', 'carol@work.example'] as const;
const RECIPIENT = 'bob@example.net';

/** The file where exim, as configured here, delivers. */
function mailboxIn(folder: string): string {
  const path = join(folder, 'mailbox');
  return existsSync(path) ? readFileSync(path, 'latin1') : '';
}

function maildirIn(folder: string): string {
  const path = join(folder, 'Maildir/new');
  return existsSync(path)
    ? readdirSync(path)
        .map((name) => readFileSync(join(path, name), 'latin1'))
        .join('|')
    : '';
}

/** Starts smtp-relay-io or the server with a file of routes, until the end of the test. */
type Start = (t: TestContext, words: readonly string[], runtime: string) => Promise<TcpServer>;

const FRONT_ENDS: Readonly<Record<string, Start>> = {
  'smtp-relay-io': (t, words, runtime) =>
    tcpserver(t, [ours('smtp-relay-io'), ...words], {
      CAFILE: authority.certFile,
      XDG_RUNTIME_DIR: runtime,
    }),
  'smtpd-starttls-server': async (t, words, runtime) => {
    const environment = { RELAY_CAFILE: authority.certFile, XDG_RUNTIME_DIR: runtime };
    const server = await startServer(['--no-starttls', ...words], [], { environment });
    t.after(server.close);
    return server;
  },
};

interface Setup {
  readonly front: TcpServer;
  readonly sshd: Sshd;
  /** What exim has delivered. */
  byTls(): string;
  /** What the command on the other side of ssh has delivered. */
  bySsh(): string;
}

/** What the key for sshd may run: a command, and what it has delivered, in a folder. */
interface Forced {
  readonly command: (folder: string) => string;
  readonly delivered: (folder: string) => string;
}

const FORCED: Readonly<Record<'exim -bs' | 'smtpd-maildir', Forced>> = {
  'exim -bs': { command: eximOnPipesIn, delivered: mailboxIn },
  'smtpd-maildir': {
    command: (folder) => `${process.execPath} ${ours('smtpd-maildir')} ${folder}/Maildir`,
    delivered: maildirIn,
  },
};

/** Starts exim with TLS and AUTH, sshd, and what has routes to both. */
async function open(t: TestContext, start: Start, forced: Forced): Promise<Setup> {
  const [eximFolder, sshFolder, folder] = [makeFolder(t), makeFolder(t), makeFolder(t)];
  // Short: paths of Unix sockets are limited.
  const runtime = mkdtempSync(join(tmpdir(), 'relay-'));
  t.after(() => rmSync(runtime, { recursive: true, force: true }));
  const exim = await tcpserver(t, eximServerIn(eximFolder, pair, 'PLAIN'));
  const sshd = await startSshd(t, folder, forced.command(sshFolder));
  const file = (name: string, text: string): string => {
    writeFileSync(join(folder, name), text);
    chmodSync(join(folder, name), 0o600);
    return join(folder, name);
  };
  const routes = [
    `${BY_TLS} tls://localhost:${exim.port}`,
    `@work.example ssh://127.0.0.1:${sshd.port}`,
    '* |/bin/false',
  ];
  const words = [
    ...['--routes', file('routes', `${routes.join('\n')}\n`), '-v', '2'],
    ...['--credentials', file('credentials', 'localhost alice wonder land\n')],
    ...[...sshd.words, '-o', 'ControlPersist=1'].map((word) => `--ssh-option=${word}`),
  ];
  const front = await start(t, words, runtime);
  return { front, sshd, byTls: () => mailboxIn(eximFolder), bySsh: () => forced.delivered(sshFolder) };
}

/** Sends one message from each sender. */
type Send = (port: number) => Promise<Outcome[]>;

const eachAlone =
  (send: (port: number, sender: string) => Promise<Outcome>): Send =>
  async (port) => [await send(port, BY_TLS), await send(port, BY_SSH)];

const SMTPLIB = `
import smtplib, sys
port, recipient, *senders = sys.argv[1:]
with smtplib.SMTP('127.0.0.1', int(port)) as client:
    for sender in senders:
        client.sendmail(sender, [recipient], 'Subject: from %s\\n\\nHi.\\n' % sender)
`;

const CLIENTS: Readonly<Record<string, Send>> = {
  swaks: eachAlone((port, sender) => {
    const envelope = ['--from', sender, '--to', RECIPIENT];
    const message = ['--header', `Subject: from ${sender}`, '--body', 'Hi.'];
    return run(['swaks', '--server', `127.0.0.1:${port}`, ...envelope, ...message, '--pipeline']);
  }),
  msmtp: eachAlone((port, sender) => {
    const options = ['--host=127.0.0.1', `--port=${port}`, `--from=${sender}`, '--tls=off'];
    return run(['msmtp', ...options, RECIPIENT], { input: `Subject: from ${sender}\n\nHi.\n` });
  }),
  'smtplib, in one session,': async (port) => [
    await run(['/usr/bin/python3', '-c', SMTPLIB, String(port), RECIPIENT, BY_TLS, BY_SSH, BY_TLS]),
  ],
};

describe('routes by sender, to exim by TLS and by ssh', {
  concurrency: 2,
  timeout: 120_000,
  skip: SKIP,
}, () => {
  for (const [frontEnd, start] of Object.entries(FRONT_ENDS)) {
    for (const [client, send] of Object.entries(CLIENTS)) {
      for (const [name, forced] of Object.entries(FORCED)) {
        it(`${frontEnd} sends messages of ${client} to exim and to ${name} by ssh`, async (t) => {
          const { front, byTls, bySsh } = await open(t, start, forced);
          for (const { status, stdout, stderr } of await send(front.port)) {
            assert.equal(status, 0, `${stdout}${stderr}${front.stderr()}`);
          }
          // exim takes a message first and delivers it then.
          await until(
            'both are delivered',
            () => byTls().includes('Hi.') && bySsh().includes('Hi.'),
            DEADLINE,
          );
          assert.match(byTls(), /^Subject: from alice@example\.org\r?$/m);
          assert.match(byTls(), /with esmtpsa/i);
          assert.doesNotMatch(byTls(), /carol/);
          assert.match(bySsh(), /^Subject: from carol@work\.example\r?$/m);
          assert.doesNotMatch(bySsh(), /alice/);
          assert.match(front.stderr(), /TLS with localhost:\d+: TLSv1\.3 TLS_\w+, verified/);
        });
      }
    }

    for (const [what, known] of [
      ['another', (key: string) => key],
      ['no', () => ''],
    ] as const) {
      it(`${frontEnd} delivers nothing to an sshd of which ${what} key is known`, async (t) => {
        const { front, sshd, byTls, bySsh } = await open(t, start, FORCED['smtpd-maildir']);
        const other = join(makeFolder(t), 'key');
        execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', other]);
        sshd.knowHosts(known(`[127.0.0.1]:${sshd.port} ${readFileSync(`${other}.pub`, 'latin1')}`));
        const client = await connectTo(t, front);
        await client.reply();
        await client.ask('EHLO client.example');
        for (const attempt of ['first', 'second']) {
          const reply = await client.ask(`MAIL FROM:<${BY_SSH}>`);
          assert.match(reply, /^451 4\.4\.1 127\.0\.0\.1: ssh failed: exit status 255$/, attempt);
        }
        assert.match(await client.ask(`RCPT TO:<${RECIPIENT}>`), /^503 5\.5\.1 /);
        assert.match(await client.ask('DATA'), /^503 5\.5\.1 /);
        // The session goes on, by the other route.
        for (const command of [
          `MAIL FROM:<${BY_TLS}>`,
          `RCPT TO:<${RECIPIENT}>`,
          'DATA',
          'Hi.\r\n.',
          'QUIT',
        ]) {
          assert.match(await client.ask(command), /^[23]/, command);
        }
        await until('the other message is delivered', () => byTls().includes('Hi.'), DEADLINE);
        assert.equal(bySsh(), '');
        assert.match(front.stderr(), /Host key verification failed\./);
        assert.match(sshd.stderr(), /^(?!.*Accepted publickey)/s);
      });
    }
  }
});

describe('a route to exim at an address behind sshd', { timeout: 60_000, skip: SKIP }, () => {
  for (const [frontEnd, start] of Object.entries(FRONT_ENDS)) {
    it(`${frontEnd} sends by it, and gets the refusals of exim`, async (t) => {
      const [eximFolder, folder] = [makeFolder(t), makeFolder(t)];
      const exim = await tcpserver(t, eximServerIn(eximFolder, pair));
      const sshd = await startSshd(t, folder);
      const routes = join(folder, 'routes');
      writeFileSync(routes, `* ssh://127.0.0.1:${sshd.port}?connect=127.0.0.1:${exim.port}\n`);
      const options = [...sshd.words, '-o', 'ControlPersist=1'].map((word) => `--ssh-option=${word}`);
      const front = await start(t, ['--routes', routes, ...options], folder);
      const recipients = `bob@elsewhere.example,${RECIPIENT}`;
      const words = ['--server', `127.0.0.1:${front.port}`, '--from', BY_TLS, '--to', recipients];
      const { status, stdout } = await run(['swaks', ...words, '--body', 'Hi.', '--pipeline']);
      assert.equal(status, 0, `${stdout}${front.stderr()}`);
      assert.match(stdout, /<\*\* 550 relay not permitted/);
      await until('the message is delivered', () => mailboxIn(eximFolder).includes('Hi.'), DEADLINE);
    });
  }
});

describe('backup:// by a route, to exim', { concurrency: 2, timeout: 120_000, skip: SKIP }, () => {
  for (const [frontEnd, start] of Object.entries(FRONT_ENDS)) {
    it(`${frontEnd} sends to the first MX host that can be reached, in TLS`, async (t) => {
      const [eximFolder, folder] = [makeFolder(t), makeFolder(t)];
      const exim = await tcpserver(
        t,
        eximServerIn(eximFolder, certificates.signedBy(authority, 'mx2.example')),
      );
      const dns = await startDnsmasq(t, [
        ...['mx1.example,10', 'mx2.example,20', 'mx3.example,30'].map(
          (host) => `--mx-host=example.net,${host}`,
        ),
        // There is no server on the same port of the first one.
        ...['--host-record=mx1.example,127.0.0.2', '--host-record=mx2.example,127.0.0.1'],
      ]);
      const routes = join(folder, 'routes');
      writeFileSync(routes, `to @example.net backup://mx3.example:${exim.port}\n`);
      const front = await start(t, ['--routes', routes, '--resolver', dns, '-v', '2'], folder);
      const words = ['--server', `127.0.0.1:${front.port}`, '--from', BY_TLS, '--body', 'Hi.'];
      const sent = await run(['swaks', ...words, '--to', RECIPIENT]);
      assert.equal(sent.status, 0, `${sent.stdout}${front.stderr()}${exim.stderr()}`);
      await until('the message is delivered', () => mailboxIn(eximFolder).includes('Hi.'), DEADLINE);
      assert.match(mailboxIn(eximFolder), /with esmtps/i);
      assert.match(front.stderr(), /unable to relay to mx1\.example:\d+: cannot connect: ECONNREFUSED/);
      assert.match(front.stderr(), /TLS with mx2\.example:\d+: TLSv1\.3 TLS_\w+, verified/);
      // No route; exim is not asked.
      const other = await run(['swaks', ...words, '--to', 'bob@elsewhere.example']);
      assert.notEqual(other.status, 0);
      assert.match(other.stdout, /<\*\* 550 5\.7\.1 /);
    });

    it(`${frontEnd} answers 450 when the domain has another MX, and 451 without DNS`, async (t) => {
      const folder = makeFolder(t);
      const exim = await tcpserver(t, eximServerIn(folder, pair));
      const records = ['--mx-host=example.net,mx1.example,10', '--host-record=mx1.example,127.0.0.1'];
      const dns = await startDnsmasq(t, records);
      const routes = join(folder, 'routes');
      writeFileSync(routes, `to @example.net backup://mx3.example:${exim.port}\n`);
      for (const [resolver, refusal] of [
        [dns, /<\*\* 450 4\.4\.4 example\.net: mx3\.example is not one of its MX hosts/],
        [`127.0.0.1:${await closedPort()}`, /<\*\* 451 4\.4\.3 example\.net: cannot look up MX records/],
      ] as const) {
        const front = await start(t, ['--routes', routes, '--resolver', resolver], folder);
        const words = ['--server', `127.0.0.1:${front.port}`, '--from', BY_TLS, '--to', RECIPIENT];
        const { status, stdout } = await run(['swaks', ...words]);
        assert.notEqual(status, 0);
        assert.match(stdout, refusal);
      }
      assert.equal(mailboxIn(folder), '');
    });
  }
});
