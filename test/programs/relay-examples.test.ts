/** The examples in docs/examples that pass mail on to other servers: their files and the commands in their READMEs. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { startDnsmasq } from '../support/dns.ts';
import { lineIn, readExample as read, replace, startByCommand } from '../support/examples.ts';
import { assertInMailbox, eximIn, eximServerIn } from '../support/exim.ts';
import { startFarServer } from '../support/far-server.ts';
import { missing, ours, ROOT } from '../support/programs.ts';
import { type Outcome, run, tcpserver } from '../support/real.ts';
import { makeFolder, RECIPIENT, SENDER } from '../support/real-chain.ts';
import { CLIENTS } from '../support/real-clients.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { noSshd, type Sshd, startSshd } from '../support/sshd.ts';
import { closedPort } from '../support/tcp.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const pair = certificates.signedBy(authority, 'localhost');

const isRoot = process.getuid?.() === 0;
/** The user of the examples that do not use ssh. Only root can change to it. */
const USER = ' -u 8 -g 8';

function swaks(port: number, from: string, to: string, ...more: string[]): Promise<Outcome> {
  return run([
    'swaks',
    '--server',
    `127.0.0.1:${port}`,
    '--from',
    from,
    '--to',
    to,
    '--body',
    'Hi.',
    ...more,
  ]);
}

function assertSent({ status, stdout, stderr }: Outcome, server?: RunningServer): void {
  assert.equal(status, 0, `${stdout}${stderr}${server?.stderr()}`);
}

/** How many messages are in a Maildir. */
function countIn(maildir: string): number {
  const path = join(maildir, 'new');
  return existsSync(path) ? readdirSync(path).length : 0;
}

/** A command that stores mail in a Maildir, for programs that have another PATH. */
function maildirCommand(maildir: string): string {
  return `${process.execPath} ${ours('smtpd-maildir')} ${maildir}`;
}

/**
 * A directory for PATH with a program ssh, which has other files than those in the home directory.
 *
 * @param config its configuration.
 */
function sshIn(folder: string, config: string): string {
  const file = join(folder, 'config');
  writeFileSync(file, `GlobalKnownHostsFile none\n${config}`);
  const bin = join(folder, 'bin');
  mkdirSync(bin);
  const ssh = spawnSync('sh', ['-c', 'command -v ssh'], { encoding: 'utf8' }).stdout.trim();
  // No connection is shared: nothing remains after the test.
  writeFileSync(join(bin, 'ssh'), `#!/bin/sh\nexec ${ssh} -F ${file} -o ControlMaster=no "$@"\n`, {
    mode: 0o755,
  });
  return bin;
}

describe('a notebook that sends by ssh', { timeout: 120_000 }, () => {
  const UNIT = read('notebook/smtp-by-ssh.service');

  /** Runs a command of the README with the files of the test. */
  function runLine(start: string, parts: Readonly<Record<string, string>>): string {
    const command = replace(lineIn('notebook', start), parts);
    const { status, stdout, stderr } = spawnSync('sh', ['-c', command], { encoding: 'utf8' });
    assert.equal(status, 0, `${command}: ${stderr}`);
    return stdout;
  }

  /** Adds the line of the README for the key of the notebook. */
  function authorize(folder: string, key: string, command: string): void {
    const line = replace(lineIn('notebook', 'restrict'), {
      '/usr/sbin/sendmail -bs': command,
      'ssh-ed25519 AAAA... alice@notebook': key,
    });
    writeFileSync(join(folder, 'authorized_keys'), line);
  }

  /** Runs the commands that make the host key known. */
  function makeKnown(home: string, sshd: Sshd, folder: string): void {
    const here = { 'host-key': join(home, 'host-key') };
    runLine('ssh-keyscan ', { 'mail.example.org': `-p ${sshd.port} 127.0.0.1`, ...here });
    const seen = runLine('ssh-keygen -lf host-key', here);
    const own = runLine('ssh-keygen -lf /etc', {
      '/etc/ssh/ssh_host_ed25519_key.pub': join(folder, 'host-key.pub'),
    });
    const [, digest] = /(SHA256:\S+)/.exec(own) ?? [];
    assert.ok(digest !== undefined && seen.includes(digest), `${seen}${own}`);
    runLine('cat host-key', { ...here, '~': home });
  }

  it('sends by the server of each sender, once its host key is known', {
    skip: noSshd() || missing('ssh-keyscan', 'swaks', 'msmtp', 'curl'),
  }, async (t) => {
    const home = makeFolder(t);
    mkdirSync(join(home, '.ssh'), { mode: 0o700 });
    runLine('ssh-keygen -q', { '~': home });
    const key = readFileSync(join(home, '.ssh/smtp.pub'), 'utf8');
    const hosts = await Promise.all(
      ['mail.example.org', 'smtp.work.example'].map(async (name) => {
        const folder = makeFolder(t);
        const sshd = await startSshd(t, folder);
        authorize(folder, key, maildirCommand(join(folder, 'Maildir')));
        return { name, folder, sshd, count: () => countIn(join(folder, 'Maildir')) };
      }),
    );
    const [own, work] = hosts;
    assert.ok(own !== undefined && work !== undefined);

    const user = userInfo().username;
    const parts = { 'alice@mail': `${user}@mail`, 'smith@smtp': `${user}@smtp` };
    mkdirSync(join(home, '.config'));
    writeFileSync(join(home, '.config/smtp-routes'), replace(read('notebook/routes'), parts));
    const config = hosts.map(({ name, sshd }) => `Host ${name}\nHostName 127.0.0.1\nPort ${sshd.port}\n`);
    const bin = sshIn(home, `UserKnownHostsFile ${home}/.ssh/known_hosts\n${config.join('')}`);
    const [, command = ''] = /^ExecStart=(.*)$/m.exec(UNIT) ?? [];
    const environment = { PATH: `${bin}${delimiter}${process.env.PATH}`, XDG_RUNTIME_DIR: home };
    const server = await startByCommand(t, replace(command, { '%h': home }), { environment });

    const early = await swaks(server.port, SENDER, RECIPIENT);
    assert.match(early.stdout, /<\*\* 451 4\.4\.1 .*ssh failed/);
    assert.equal(own.count(), 0);

    makeKnown(home, own.sshd, own.folder);
    const clients = CLIENTS.filter(({ name }) => ['swaks', 'msmtp', 'curl'].includes(name));
    for (const { plain } of clients) {
      const sent = await plain?.({ ...server, pair, folder: home });
      assert.ok(sent !== undefined);
      assertSent(sent, server);
    }
    assert.deepEqual([own.count(), work.count()], [clients.length, 0]);

    makeKnown(home, work.sshd, work.folder);
    assertSent(await swaks(server.port, 'smith@work.example', RECIPIENT), server);
    assert.deepEqual([own.count(), work.count()], [clients.length, 1]);

    const other = await swaks(server.port, 'someone@else.example', RECIPIENT);
    assert.match(other.stdout, /<\*\* 550 5\.7\.1 /);
  });

  it('has a key that may send mail by exim, and may do nothing else', {
    skip:
      noSshd() || (isRoot ? missing('exim4', 'swaks') : 'exim takes another configuration from root alone'),
  }, async (t) => {
    const folder = makeFolder(t);
    const sshd = await startSshd(t, folder);
    eximIn(folder);
    const key = readFileSync(join(folder, 'client-key.pub'), 'utf8');
    authorize(folder, key, `/usr/sbin/exim4 -C ${folder}/exim.conf -odf -bs`);
    const options = sshd.words.map((word) => `--ssh-option=${word}`);
    const url = `ssh://127.0.0.1:${sshd.port}/touch%20${folder}/file`;
    const words = ['--no-starttls', ...options, '--ssh-option=-oControlMaster=no', '--to', url];
    const server = await startServer(words, [], { environment: { XDG_RUNTIME_DIR: folder } });
    t.after(server.close);
    const [client] = CLIENTS;
    const sent = await client?.plain?.({ ...server, pair, folder });
    assert.ok(sent !== undefined);
    assertSent(sent, server);
    await assertInMailbox(folder);
    assert.equal(existsSync(join(folder, 'file')), false);
  });

  it('has a unit in which systemd-analyze finds nothing wrong', {
    skip: missing('systemd-analyze'),
  }, (t) => {
    const folder = makeFolder(t);
    const unit = join(folder, 'smtp-by-ssh.service');
    writeFileSync(unit, replace(UNIT, { '/usr/local/bin': join(ROOT, 'dist/bin') }));
    const verdict = spawnSync('systemd-analyze', ['--user', 'verify', '--recursive-errors=no', unit], {
      env: { ...process.env, XDG_RUNTIME_DIR: folder },
      encoding: 'utf8',
    });
    assert.equal(verdict.stderr, '');
    assert.equal(verdict.status, 0);
  });
});

describe('a host with a dynamic address', { skip: noSshd() || missing('swaks'), timeout: 120_000 }, () => {
  interface Host {
    readonly sshd: Sshd;
    readonly folder: string;
    /** For PATH: ssh, which finds the host. */
    readonly bin: string;
    /** How many messages the host has received. */
    count(): number;
    /** The URL of the example, for this host. */
    url(text: string): string;
  }

  async function startHost(t: TestContext): Promise<Host> {
    const folder = makeFolder(t);
    const sshd = await startSshd(t, folder);
    const line = replace(lineIn('dynamic-host', 'restrict'), {
      '/usr/local/bin/smtpd-maildir /var/mail/inbox': maildirCommand(join(folder, 'Maildir')),
      'ssh-ed25519 AAAA... bsmtp@mx.example.org': readFileSync(join(folder, 'client-key.pub'), 'utf8'),
    });
    writeFileSync(join(folder, 'authorized_keys'), line);
    const known = `IdentityFile ${folder}/client-key\nUserKnownHostsFile ${folder}/known_hosts\n`;
    const bin = sshIn(folder, `${known}Host home.example.org\nHostName 127.0.0.1\nPort ${sshd.port}\n`);
    return {
      ...{ sshd, folder, bin },
      count: () => countIn(join(folder, 'Maildir')),
      url: (text) => replace(text, { 'ssh://bsmtp@': `ssh://${userInfo().username}@` }),
    };
  }

  /** Another machine has the address now. */
  function takeAddress({ sshd, folder }: Host): void {
    const other = readFileSync(join(folder, 'client-key.pub'), 'utf8');
    sshd.knowHosts(`[127.0.0.1]:${sshd.port} ${other}`);
  }

  it('receives mail by a route, and another machine with its address does not', async (t) => {
    const host = await startHost(t);
    const { folder } = host;
    const routes = join(folder, 'routes');
    const smtpd = { '/usr/local/bin/qmail-smtpd': maildirCommand(join(folder, 'mx')) };
    writeFileSync(routes, host.url(replace(read('dynamic-host/routes'), smtpd)));
    const line = lineIn('dynamic-host', 'smtpd-starttls-server');
    const command = replace(line, { ' -u 1001 -g 1001': '', '/etc/mail/routes': routes });
    const PATH = `${host.bin}${delimiter}${process.env.PATH}`;
    const server = await startByCommand(t, command, { environment: { PATH, XDG_RUNTIME_DIR: folder } });
    assertSent(await swaks(server.port, SENDER, 'alice@home.example.org', '--tls'), server);
    assert.deepEqual([host.count(), countIn(join(folder, 'mx'))], [1, 0]);
    assertSent(await swaks(server.port, SENDER, 'alice@example.org', '--tls'), server);
    assert.deepEqual([host.count(), countIn(join(folder, 'mx'))], [1, 1]);

    takeAddress(host);
    const { stdout } = await swaks(server.port, SENDER, 'alice@home.example.org', '--tls');
    assert.match(stdout, /<~\* 451 4\.4\.1 .*ssh failed/);
    assert.equal(host.count(), 1);
  });

  it('receives mail by a mailer, as sendmail runs it', async (t) => {
    const host = await startHost(t);
    const mailer = read('dynamic-host/mailer.m4');
    const [, program = ''] = /\bP=(\S+),/.exec(mailer) ?? [];
    const [, name, args = ''] = /\bA=(\S+) (.*)$/m.exec(mailer) ?? [];
    const [, path] = /^EPATH=(.*)$/m.exec(mailer) ?? [];
    assert.equal(program, `/usr/local/bin/${name}`);
    // The pattern is the domain, and $h is what follows the colon.
    const [, domain, to] = /^(\S+)\tssh:(\S+)$/.exec(lineIn('dynamic-host', 'home.example.org')) ?? [];
    assert.equal(domain, 'home.example.org');
    const url = host.url(replace(args, { $h: to ?? '' }));
    // Neither HOME nor anything else, and one pipe for stdout and stderr.
    const PATH = [host.bin, path, dirname(process.execPath)].join(delimiter);
    const command = `env -i AGENT=sendmail PATH=${PATH} ${ours('smtp-relay-io')} ${url} 2>&1`;
    const send = (): Promise<Outcome> =>
      run(['swaks', '--pipe', command, '--from', SENDER, '--to', `alice@${domain}`, '--body', 'Hi.']);
    assertSent(await send());
    assert.equal(host.count(), 1);

    takeAddress(host);
    const { status, stdout } = await send();
    assert.notEqual(status, 0);
    assert.match(stdout, /451 4\.4\.1 .*ssh failed/);
    assert.equal(host.count(), 1);
  });
});

describe('a smarthost with a password', { skip: missing('swaks'), timeout: 120_000 }, () => {
  async function start(t: TestContext, host: string): Promise<RunningServer> {
    const credentials = join(makeFolder(t), 'credentials');
    const line = lineIn('smarthost', 'smtp.example.org');
    const [name = ''] = host.split(':');
    writeFileSync(
      credentials,
      `${replace(line, { 'smtp.example.org': name, 'correct horse battery staple': 'wonder land' })}\n`,
    );
    chmodSync(credentials, 0o600);
    const [, command = ''] = /^exec (smtpd-starttls-server .*)$/ms.exec(read('smarthost/run').trim()) ?? [];
    const parts = { '/etc/mail/credentials': credentials, 'smtp.example.org': host };
    const environment = { CERTFILE: undefined, KEYFILE: undefined, RELAY_CAFILE: authority.certFile };
    // It stores no mail, so it has no need of group mail.
    const user = ' -u 8 -g 65534';
    const words = replace(command, { ...parts, [user]: isRoot ? user : '' });
    return startByCommand(t, words, { environment });
  }

  it('gets mail of a program that supports neither TLS nor AUTH', {
    skip: isRoot ? missing('exim4', 'tcpserver') : 'exim takes another configuration from root alone',
  }, async (t) => {
    const folder = makeFolder(t);
    const exim = await tcpserver(t, [...eximServerIn(folder, pair, 'PLAIN'), '-tls-on-connect']);
    const server = await start(t, `localhost:${exim.port}`);
    assert.equal(lineIn('smarthost', ':'), ':127.0.0.1:2525');
    // qmail-remote sends HELO.
    assertSent(await swaks(server.port, SENDER, RECIPIENT, '--protocol', 'SMTP'), server);
    const [client] = CLIENTS;
    const sent = await client?.plain?.({ ...server, pair, folder });
    assert.ok(sent !== undefined);
    assertSent(sent, server);
    assert.match(readFileSync(join(folder, 'mailbox'), 'latin1'), /with esmtpsa/i);
  });

  it('gets neither mail nor password if its certificate has another name', async (t) => {
    const far = await startFarServer(t, { pair, implicit: true });
    const server = await start(t, `127.0.0.1:${far.port}`);
    const { stdout } = await swaks(server.port, SENDER, RECIPIENT);
    assert.match(stdout, /<\*\* 451 4\.7\.5 /);
    assert.deepEqual(
      far.connections.map(({ tls }) => tls),
      [''],
    );
  });
});

describe('a backup MX', { skip: missing('dnsmasq', 'swaks'), timeout: 120_000 }, () => {
  it('passes mail on to the primary MX, and to no other server', async (t) => {
    const folder = makeFolder(t);
    const inbox = { own: join(folder, 'own'), primary: join(folder, 'primary') };
    const records = [...read('backup-mx/README.md').matchAll(/^ {4}(\S+)\. MX (\d+) (\S+)\.$/gm)];
    const mx = records.map(([, domain, preference, host]) => `--mx-host=${domain},${host},${preference}`);
    assert.equal(mx.length, 2);
    const host = '--host-record=mx1.example.net,127.0.0.1';
    const dns = await startDnsmasq(t, ['--local=/example.net/', host, ...mx]);
    const port = await closedPort();

    const routes = join(folder, 'routes');
    const parts = {
      '/usr/local/bin/smtpd-maildir /var/mail/inbox': maildirCommand(inbox.own),
      'backup://mx2.example.org': `backup://mx2.example.org:${port}`,
    };
    writeFileSync(routes, replace(read('backup-mx/routes'), parts));
    chmodSync(routes, 0o644);
    const line = lineIn('backup-mx', 'smtpd-starttls-server');
    const command = replace(line, { '/etc/mail/routes': routes, [USER]: isRoot ? USER : '' });
    const server = await startByCommand(t, command, {}, '--resolver', dns);

    const down = await swaks(server.port, SENDER, 'bob@example.net', '--tls');
    assert.match(down.stdout, /<~\* 451 4\.4\.1 /);

    const primary = await startServer(['--fresh'], [ours('smtpd-maildir'), inbox.primary], {
      listen: ['127.0.0.1', String(port)],
    });
    t.after(primary.close);
    assertSent(await swaks(server.port, SENDER, 'bob@example.net', '--tls'), server);
    assert.deepEqual([countIn(inbox.own), countIn(inbox.primary)], [0, 1]);
    assertSent(await swaks(server.port, SENDER, 'bob@example.org', '--tls'), server);
    assert.deepEqual([countIn(inbox.own), countIn(inbox.primary)], [1, 1]);

    const other = await swaks(server.port, SENDER, 'bob@elsewhere.example', '--tls');
    assert.match(other.stdout, /<~\* 550 5\.7\.1 /);
  });
});
