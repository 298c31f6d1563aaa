import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { makeCertificates } from './support/certificate.ts';
import { watch } from './support/chain.ts';
import { missing, ours, ROOT } from './support/programs.ts';
import { connectSmtp } from './support/smtp-client.ts';

// The scripts in docs/examples, each run by the tool that it is for, with a mail sent to it.

const EXAMPLES = join(ROOT, 'docs/examples');
const NOBODY = '65534';
const certificates = makeCertificates();
const pair = certificates.selfSigned('localhost');
const folder = mkdtempSync(join(tmpdir(), 'examples-'));
const running: ChildProcess[] = [];

before(() => {
  ours('smtpd-maildir');
  // The smtpd of the examples, and a tcpserver that tells which port it was given.
  mkdirSync(join(folder, 'bin'));
  writeScript('qmail-smtpd', `exec smtpd-maildir ${folder}/Maildir`);
  writeScript(
    'tcpserver',
    `exec "${spawnSync('sh', ['-c', 'command -v tcpserver']).stdout.toString().trim()}" -1 "$@"`,
  );
  // Some of the examples give up root before the Maildir is made.
  chmodSync(folder, 0o777);
});

after(async () => {
  const ended = running.map((child) => watch(child).ended);
  for (const child of running) child.kill('SIGTERM');
  await Promise.all(ended);
  rmSync(folder, { recursive: true, force: true });
  certificates.remove();
});

function writeScript(name: string, command: string): void {
  const path = join(folder, 'bin', name);
  writeFileSync(path, `#!/bin/sh\n${command}\n`);
  chmodSync(path, 0o755);
}

const environment: NodeJS.ProcessEnv = {
  ...process.env,
  PATH: `${join(folder, 'bin')}:${join(ROOT, 'dist/bin')}:${process.env.PATH}`,
};

function start(command: readonly string[], cwd: string): ChildProcess {
  const [file = '', ...args] = command;
  const child = spawn(file, args, { cwd, env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
  running.push(child);
  return child;
}

/** The first number that a process says on stdout. */
async function portOf(child: ChildProcess, pattern: RegExp): Promise<number> {
  let said = '';
  for await (const bytes of child.stdout ?? []) {
    said += String(bytes);
    const port = pattern.exec(said)?.[1];
    if (port !== undefined) return Number(port);
  }
  throw new Error(`no port in ${said}`);
}

/** Writes a folder of variables, a file each, as envdir reads it. */
function writeEnvdir(path: string, variables: Readonly<Record<string, string>>): void {
  mkdirSync(path, { recursive: true });
  for (const [name, value] of Object.entries(variables)) writeFileSync(join(path, name), `${value}\n`);
}

/** Sends a mail by STARTTLS and looks for it in a Maildir. */
async function deliver(port: number, maildir: string): Promise<void> {
  const client = await connectSmtp(port);
  assert.match(await client.reply(), /^220 /);
  assert.match(await client.ask('EHLO client.example'), /\n250 STARTTLS$/);
  await client.startTls();
  assert.match(await client.ask('EHLO client.example'), /^250-/);
  assert.match(await client.ask('MAIL FROM:<me@example.org>'), /^250 /);
  assert.match(await client.ask('RCPT TO:<you@example.org>'), /^250 /);
  assert.match(await client.ask('DATA'), /^354 /);
  assert.match(await client.ask(`Subject: to port ${port}\r\n\r\nhello\r\n.`), /^250 /);
  assert.match(await client.ask('QUIT'), /^221 /);
  client.end();
  const mails = readdirSync(join(maildir, 'new')).map((name) =>
    readFileSync(join(maildir, 'new', name), 'utf8'),
  );
  const mine = mails.filter((mail) => mail.includes(`Subject: to port ${port}\n\nhello\n`));
  assert.equal(mine.length, 1);
  assert.match(mine[0] ?? '', /with ESMTPS/);
}

test('demo: a mail that is sent to it lies in its Maildir', async () => {
  const child = start([join(EXAMPLES, 'demo/run'), join(folder, 'demo'), '0'], folder);
  const port = await portOf(child, /listening on 127\.0\.0\.1 port (\d+)/);
  await deliver(port, join(folder, 'demo/Maildir'));
});

test('s6: the service takes mail', {
  skip: missing('execlineb', 's6-envdir', 'tcpserver') || needsRoot(),
}, async () => {
  const service = join(folder, 's6');
  mkdirSync(service);
  copyFileSync(join(EXAMPLES, 's6/run'), join(service, 'run'));
  writeEnvdir(join(service, 'env'), { ...common(), USER_ID: NOBODY, GROUP_ID: NOBODY });
  const port = await portOf(start(['./run'], service), /^(\d+)$/m);
  await deliver(port, join(folder, 'Maildir'));
});

test('runit: the service takes mail', {
  skip: missing('runsv', 'chpst', 'tcpserver') || needsRoot(),
}, async () => {
  const service = join(folder, 'runit');
  mkdirSync(service);
  copyFileSync(join(EXAMPLES, 'runit/run'), join(service, 'run'));
  writeEnvdir(join(service, 'env'), { ...common(), SMTPD_USER: `:${NOBODY}:${NOBODY}` });
  const port = await portOf(start(['runsv', service], folder), /^(\d+)$/m);
  await deliver(port, join(folder, 'Maildir'));
});

test('xinetd: the service takes mail', { skip: missing('xinetd') || needsRoot() }, async () => {
  const port = await freePort();
  const conf = join(folder, 'xinetd.conf');
  const settings = join(folder, 'smtpd-starttls.conf');
  const log = join(folder, 'smtpd.log');
  writeFileSync(
    settings,
    `PATH='${environment.PATH}'\nCERTFILE=${pair.certFile}\nKEYFILE=${pair.keyFile}\nSMTPD_LOG=${log}\nMAILDIR=${folder}/xinetd\n`,
  );
  const example = readFileSync(join(EXAMPLES, 'inetd/smtp.xinetd'), 'utf8')
    .replaceAll('/usr/local/sbin/smtpd-starttls', join(EXAMPLES, 'inetd/smtpd-starttls'))
    .replace('user            = mail', 'user            = root')
    .replace(
      '\n}',
      `\n type = UNLISTED\n port = ${port}\n bind = 127.0.0.1\n env = SMTPD_STARTTLS_CONF=${settings}\n}`,
    );
  writeFileSync(conf, example);
  const child = start(['xinetd', '-dontfork', '-filelog', join(folder, 'xinetd.log'), '-f', conf], folder);
  await reachable(port, child);
  await deliver(port, join(folder, 'xinetd'));
  assert.match(readFileSync(log, 'utf8'), /info: TLS with/);
});

test('systemd: systemd-analyze finds nothing wrong with the units', {
  skip: missing('systemd-analyze'),
}, () => {
  const units = join(folder, 'units');
  mkdirSync(units);
  for (const name of readdirSync(join(EXAMPLES, 'systemd'))) {
    const text = readFileSync(join(EXAMPLES, 'systemd', name), 'utf8');
    // It looks whether the program is there, and make install has not run.
    writeFileSync(join(units, name), text.replaceAll('/usr/local/bin', join(ROOT, 'dist/bin')));
  }
  const files = readdirSync(units).map((name) => join(units, name));
  const verdict = spawnSync('systemd-analyze', ['verify', '--recursive-errors=no', ...files], {
    encoding: 'utf8',
  });
  assert.equal(verdict.stderr, '');
  assert.equal(verdict.status, 0);
});

function common(): Record<string, string> {
  return {
    HOST: '127.0.0.1',
    PORT: '0',
    CERTFILE: pair.certFile,
    KEYFILE: pair.keyFile,
    TLS_UID: NOBODY,
    TLS_GID: NOBODY,
  };
}

function needsRoot(): string | false {
  return process.getuid?.() === 0 ? false : 'it starts as root';
}

/** A port that was free a moment ago: xinetd does not tell which one it was given. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Waits until someone listens, as long as the process lives. */
async function reachable(port: number, child: ChildProcess): Promise<void> {
  while (child.exitCode === null) {
    try {
      (await connectSmtp(port)).destroy();
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  throw new Error('xinetd has ended');
}
