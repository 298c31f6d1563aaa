import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { NO_UCSPI_TCP, serve, watch } from '../support/chain.ts';
import { until } from '../support/processes.ts';
import { missing, ours, ROOT } from '../support/programs.ts';
import { startServer } from '../support/server.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';
import { closedPort } from '../support/tcp.ts';

// The scripts in docs/examples, each run by its tool, with a mail sent to it.

const EXAMPLES = join(ROOT, 'docs/examples');
const READ_PROXY_HEADER = join(EXAMPLES, 'unix-socket/read-proxy-header');
const NOBODY = '65534';
/** The user of the systemd units, and their options for it. */
const MAIL = 8;
const USER = ' -u 8 -g 8';
const certificates = makeCertificates();
const pair = certificates.selfSigned('localhost');
const folder = mkdtempSync(join(tmpdir(), 'examples-'));
const running: ChildProcess[] = [];

before(() => {
  ours('smtpd-maildir');
  // The smtpd of the examples, and a tcpserver that prints the port it was assigned.
  mkdirSync(join(folder, 'bin'));
  writeScript('qmail-smtpd', `exec smtpd-maildir ${folder}/Maildir`);
  writeScript(
    'tcpserver',
    `exec "${spawnSync('sh', ['-c', 'command -v tcpserver']).stdout.toString().trim()}" -1 "$@"`,
  );
  // Some of the examples drop root before the Maildir is created.
  chmodSync(folder, 0o777);
});

after(async () => {
  const left = running.filter(({ exitCode, signalCode }) => exitCode === null && signalCode === null);
  const ended = left.map((child) => watch(child).ended);
  for (const child of left) child.kill('SIGTERM');
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

function start(command: readonly string[], cwd: string, more: NodeJS.ProcessEnv = {}): ChildProcess {
  const [file = '', ...args] = command;
  const env = { ...environment, ...more };
  const child = spawn(file, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe', 'pipe'] });
  running.push(child);
  return child;
}

/** A number that a process prints on stdout, or on another stream. */
function portOf(child: ChildProcess, pattern: RegExp, stream = child.stdout): Promise<number> {
  let output = '';
  return new Promise((resolve, reject) => {
    // Not an iterator, which would close the stream once the number is found.
    stream?.on('data', (bytes: Buffer) => {
      output += bytes.toString('latin1');
      const port = pattern.exec(output)?.[1];
      if (port !== undefined) resolve(Number(port));
    });
    stream?.on('end', () => reject(new Error(`no port in ${output}`)));
  });
}

/** Writes a directory for envdir: one file per variable. */
function writeEnvdir(path: string, variables: Readonly<Record<string, string>>): void {
  mkdirSync(path, { recursive: true });
  for (const [name, value] of Object.entries(variables)) writeFileSync(join(path, name), `${value}\n`);
}

/** The PATH in the README of an example, behind the programs of this test, and with node. */
function pathOf(example: string): string {
  const page = readFileSync(join(EXAMPLES, example, 'README.md'), 'utf8');
  const [, directories] = /^\| `PATH` \| `([^`]+)`/m.exec(page) ?? [];
  assert.ok(directories !== undefined, example);
  return [join(folder, 'bin'), join(ROOT, 'dist/bin'), directories, dirname(process.execPath)].join(':');
}

/**
 * Sends a mail by STARTTLS and looks for it in a Maildir.
 *
 * @param trace what its Received field has.
 */
async function deliver(port: number, maildir: string, trace?: RegExp): Promise<void> {
  const client = await connectSmtp(port);
  assert.match(await client.reply(), /^220 /);
  await beginMail(client);
  await endMail(client, port, maildir, trace);
}

/** After the greeting, sends everything up to the message itself. */
async function beginMail(client: SmtpClient): Promise<void> {
  assert.match(await client.ask('EHLO client.example'), /\n250 STARTTLS$/);
  await client.startTls();
  assert.match(await client.ask('EHLO client.example'), /^250-/);
  assert.match(await client.ask('MAIL FROM:<me@example.org>'), /^250 /);
  assert.match(await client.ask('RCPT TO:<you@example.org>'), /^250 /);
  assert.match(await client.ask('DATA'), /^354 /);
}

/** Sends the message, and looks for it in a Maildir, which must hold no other one with that port. */
async function endMail(
  client: SmtpClient,
  port: number,
  maildir: string,
  trace = /with ESMTPS/,
): Promise<void> {
  assert.match(await client.ask(`Subject: to port ${port}\r\n\r\nhello\r\n.`), /^250 /);
  assert.match(await client.ask('QUIT'), /^221 /);
  client.end();
  const mails = readdirSync(join(maildir, 'new')).map((name) =>
    readFileSync(join(maildir, 'new', name), 'utf8'),
  );
  const mine = mails.filter((mail) => mail.includes(`Subject: to port ${port}\n\nhello\n`));
  assert.equal(mine.length, 1);
  assert.match(mine[0] ?? '', trace);
}

test('demo: a mail sent to it is in its Maildir', async () => {
  const child = start([join(EXAMPLES, 'demo/run'), join(folder, 'demo'), '0'], folder);
  const port = await portOf(child, /^SMTP with STARTTLS on 127\.0\.0\.1 port (\d+);/m);
  await deliver(port, join(folder, 'demo/Maildir'));
});

test('demo: no instructions are printed when it cannot listen, and no file is left of them', async () => {
  const other = createServer();
  const port = await new Promise<number>((resolve) => {
    other.listen(0, '127.0.0.1', () => resolve((other.address() as AddressInfo).port));
  });
  const directory = join(folder, 'demo-in-vain');
  const { status, stdout, stderr } = spawnSync(join(EXAMPLES, 'demo/run'), [directory, `${port}`], {
    encoding: 'utf8',
  });
  other.close();
  assert.equal(status, 111, stderr);
  assert.equal(stdout, '');
  assert.deepEqual(readdirSync(directory).sort(), ['cert.pem', 'key.pem', 'openssl.log']);
});

test('s6: the service accepts mail', {
  skip: missing('execlineb', 's6-envdir', 'tcpserver') || needsRoot(),
}, async () => {
  const service = join(folder, 's6');
  mkdirSync(service);
  copyFileSync(join(EXAMPLES, 's6/run'), join(service, 'run'));
  writeEnvdir(join(service, 'env'), {
    ...common(),
    USER_ID: NOBODY,
    GROUP_ID: NOBODY,
    PATH: pathOf('s6'),
  });
  const port = await portOf(start(['./run'], service), /^(\d+)$/m);
  await deliver(port, join(folder, 'Maildir'));
});

test('runit: the service accepts mail', {
  skip: missing('runsv', 'chpst', 'tcpserver') || needsRoot(),
}, async () => {
  const service = join(folder, 'runit');
  mkdirSync(service);
  copyFileSync(join(EXAMPLES, 'runit/run'), join(service, 'run'));
  writeEnvdir(join(service, 'env'), { ...common(), SMTPD_USER: `:${NOBODY}:${NOBODY}` });
  const port = await portOf(start(['runsv', service], folder), /^(\d+)$/m);
  await deliver(port, join(folder, 'Maildir'));
});

test('xinetd: the service accepts mail', { skip: missing('xinetd') || needsRoot() }, async () => {
  const port = await closedPort();
  const conf = join(folder, 'xinetd.conf');
  const settings = join(folder, 'smtpd-starttls.conf');
  const log = join(folder, 'smtpd.log');
  writeFileSync(
    settings,
    `PATH='${environment.PATH}'\nCERTFILE=${pair.certFile}\nKEYFILE=${pair.keyFile}\nSMTPD_LOG=${log}\nMAILDIR=${folder}/xinetd\n` +
      `LOCAL_NAME=mail.example.org\nSMTPD_UID=${NOBODY}\nSMTPD_GID=${NOBODY}\n`,
  );
  const example = readFileSync(join(EXAMPLES, 'inetd/smtp.xinetd'), 'utf8')
    .replaceAll('/usr/local/sbin/smtpd-starttls', join(EXAMPLES, 'inetd/smtpd-starttls'))
    .replace(
      '\n}',
      `\n type = UNLISTED\n port = ${port}\n bind = 127.0.0.1\n env = SMTPD_STARTTLS_CONF=${settings}\n}`,
    );
  // xinetd reads the files of a directory, but none with a dot in its name.
  const page = readFileSync(join(EXAMPLES, 'inetd/README.md'), 'utf8');
  const [, name = ''] = /\/etc\/xinetd\.d\/(\S+)/.exec(page) ?? [];
  const services = join(folder, 'xinetd.d');
  mkdirSync(services);
  writeFileSync(join(services, name), example);
  writeFileSync(conf, `includedir ${services}\n`);
  const child = start(['xinetd', '-dontfork', '-filelog', join(folder, 'xinetd.log'), '-f', conf], folder);
  await reachable(port, child);
  await deliver(port, join(folder, 'xinetd'));
  assertOwner(join(folder, 'xinetd'), Number(NOBODY));
  assert.match(readFileSync(log, 'utf8'), /info: TLS with/);
});

test('s6-server: a new server takes over, and no connection is refused', {
  skip: missing('execlineb', 's6-svscan', 's6-fdholder-daemon', 'perl') || needsRoot(),
}, async () => {
  const scandir = join(folder, 's6-server');
  const example = join(EXAMPLES, 's6-server');
  const holder = join(folder, 'holder');
  const port = await closedPort();
  cpSync(join(example, 'fdholder'), join(scandir, 'fdholder'), { recursive: true });
  writeEnvdir(join(scandir, 'fdholder/env'), { HOLDER: holder });
  for (const name of ['smtp-a', 'smtp-b']) {
    cpSync(join(example, 'server'), join(scandir, name), { recursive: true });
    writeEnvdir(join(scandir, name, 'env'), {
      ...{ HOLDER: holder, LOCAL_NAME: 'mx.example.org', UID: NOBODY, GID: NOBODY },
      ...{ CERTFILE: pair.certFile, KEYFILE: pair.keyFile, PATH: pathOf('s6-server') },
    });
    writeFileSync(join(scandir, name, 'down'), '');
  }
  const isTrue = (field: string, name: string): boolean =>
    outputOf(['s6-svstat', '-o', field, join(scandir, name)]) === 'true\n';
  start(['s6-svscan', scandir], folder);
  await until('s6-svscan supervises the services', () =>
    ['fdholder', 'smtp-a', 'smtp-b'].every((name) => existsSync(join(scandir, name, 'supervise/status'))),
  );
  await until('there is a holder', () => isTrue('ready', 'fdholder'));
  outputOf([join(example, 'bind'), '127.0.0.1', String(port), 's6-fdholder-store', holder, 'smtp']);
  outputOf(['s6-svc', '-uwU', '-T', '10000', join(scandir, 'smtp-a')]);

  const open = await connectSmtp(port);
  assert.match(await open.reply(), /^220 /);
  await beginMail(open);
  const roll = watch(start([join(example, 'roll'), scandir], folder)).ended;
  let isRolling = true;
  void roll.finally(() => {
    isRolling = false;
  });
  for (let left = 3; left > 0; left -= isRolling ? 0 : 1) {
    const client = await connectSmtp(port);
    assert.match(await client.reply(), /^220 /);
    assert.match(await client.ask('QUIT'), /^221 /);
    client.destroy();
  }
  assert.deepEqual(await roll, { code: 0, signal: null });
  assert.ok(isTrue('up', 'smtp-b'));
  assert.ok(isTrue('up', 'smtp-a'), 'it has a session left');
  assert.deepEqual(
    ['smtp-a', 'smtp-b'].map((name) => existsSync(join(scandir, name, 'down'))),
    [true, false],
  );
  await endMail(open, port, join(folder, 'Maildir'));
  await until('the old server has ended', () => !isTrue('up', 'smtp-a'));

  // Back again, with no state of the first time left.
  outputOf([join(example, 'roll'), scandir]);
  await until('the other server has ended', () => !isTrue('up', 'smtp-b'));
  const client = await connectSmtp(port);
  assert.match(await client.reply(), /^220 /);
  client.destroy();
});

test('systemd: the server restarts with a passed socket, and no connection is refused', {
  skip: missing('perl'),
}, async () => {
  const maildir = join(folder, 'systemd');
  // One process: with a primary and a worker, "stopping" comes before the worker closes its listeners.
  const command = startCommandOf('smtpd-starttls-server.service', maildir).replace(USER, '');
  // As systemd does: holds the socket, and starts the server with it on request.
  const script = `exec 4<&0
    trap 'kill $!; exit' TERM
    while read -r _ <&3; do
      sh -c 'LISTEN_PID=$$ LISTEN_FDS=1 exec ${command}' 3<&4 4<&- &
      echo "pid $!"
      wait
      echo ended >&2
    done`;
  const child = start([join(EXAMPLES, 's6-server/bind'), '127.0.0.1', '0', 'sh', '-c', script], folder, {
    CERTFILE: pair.certFile,
    KEYFILE: pair.keyFile,
  });
  const control = child.stdio[3];
  assert.ok(control !== null && control !== undefined && 'write' in control);
  const output = watch(child);

  control.write('start\n');
  const [old, port] = await Promise.all([
    portOf(child, /^pid (\d+)$/m),
    portOf(child, /event=listening on=\S*:(\d+)$/m, child.stderr),
  ]);
  const open = await connectSmtp(port);
  assert.match(await open.reply(), /^220 /);
  await beginMail(open);
  process.kill(old, 'SIGTERM');
  await output.logs(/event=stopping/);
  // Nothing accepts connections now, so this one waits.
  const early = await connectSmtp(port);
  await endMail(open, port, maildir);
  await output.logs(/^ended$/m);
  control.write('start\n');
  assert.match(await early.reply(), /^220 /);
  await beginMail(early);
  assert.match(await early.ask('Subject: early\r\n\r\nhello\r\n.'), /^250 /);
  assert.match(await early.ask('QUIT'), /^221 /);
  early.end();
  assert.equal(readdirSync(join(maildir, 'new')).length, 2);
});

/** The Received field of an smtpd that has been sent the client's address, and not its TLS session. */
const ADDRESS_ONLY = /\(\[127\.0\.0\.1\]\)\s.*with ESMTP\s/s;

test('unix-socket: smtpds under s6-ipcserver accept mail, and only the group of the server can connect', {
  skip: missing('execlineb', 's6-ipcserver') || needsRoot(),
}, async (t) => {
  const service = join(folder, 'unix-socket');
  cpSync(join(EXAMPLES, 'unix-socket'), service, { recursive: true });
  writeEnvdir(join(service, 'env'), {
    UID: NOBODY,
    GID: NOBODY,
    PATH: pathOf('unix-socket'),
    ...{ FOLDER: join(folder, 'run'), SERVER_GID: String(MAIL) },
  });
  await isReady(start(['./run'], service));
  const to = ['--send-proxy', 'v1', '--to', `unix:${join(folder, 'run/socket')}`];
  const as = (id: number): string[] => ['-u', String(id), '-g', String(id)];
  const other = await startServer([...to, ...as(Number(NOBODY))], []);
  t.after(other.close);
  const refused = await connectSmtp(other.port);
  assert.match(await refused.reply(), /^421 4\.3\.0 /);
  refused.destroy();
  await other.logs(/text="cannot reach unix:\S+: EACCES \([^"]+\)"/);

  const server = await startServer([...to, '--on-demand', ...as(MAIL)], []);
  t.after(server.close);
  await deliver(server.port, join(folder, 'Maildir'), ADDRESS_ONLY);
  assert.doesNotMatch(server.stderr(), /warning|fatal/);
});

test('unix-socket: smtpd gets the addresses of the header, and everything after it', () => {
  const script = 'echo $PROTO $TCPREMOTEIP $TCPREMOTEPORT $TCPLOCALIP "$TCPLOCALPORT"; cat';
  const { status, stdout } = spawnSync(READ_PROXY_HEADER, ['sh', '-c', script], {
    input: 'PROXY TCP6 2001:db8::1 2001:db8::2 4000 25\r\nEHLO client.example\r\n',
    encoding: 'utf8',
  });
  assert.equal(stdout, 'TCP 2001:db8::1 4000 2001:db8::2 25\nEHLO client.example\r\n');
  assert.equal(status, 0);
});

test('unix-socket: smtpd is not started without a header', () => {
  for (const header of ['', 'EHLO client.example\r\n', 'PROXY UNKNOWN\r\n']) {
    const { status, stdout, stderr } = spawnSync(READ_PROXY_HEADER, ['echo', 'started'], {
      input: header,
      encoding: 'utf8',
    });
    assert.deepEqual([status, stdout], [111, '']);
    assert.match(stderr, /^read-proxy-header: fatal: [^\n]+\n$/);
  }
});

test('systemd: smtpds on a Unix socket accept mail', {
  skip: missing('systemd-socket-activate', 'perl'),
}, async () => {
  const maildir = join(folder, 'systemd-unix');
  const socket = join(folder, 'smtpd.socket');
  const smtpd = startCommandOf('smtpd@.service', maildir).split(' ');
  const holder = start(['systemd-socket-activate', '--accept', '--inetd', '-l', socket, ...smtpd], folder);
  await watch(holder).logs(/Listening on /);
  if (needsRoot() === false) chownSync(socket, 0, MAIL);
  chmodSync(socket, 0o660);
  const [, line = ''] = /^# (ExecStart=.*)$/m.exec(unit('smtpd.socket')) ?? [];
  const server = commandIn(line).replace('/run/smtpd.socket', socket);
  const words = [join(EXAMPLES, 's6-server/bind'), '127.0.0.1', '0', ...server.split(' ')];
  const child = start(words, folder, { CERTFILE: pair.certFile, KEYFILE: pair.keyFile });
  const port = await portOf(child, /event=listening on=\S*:(\d+)$/m, child.stderr);
  await deliver(port, maildir, ADDRESS_ONLY);
});

/** Waits for the newline on descriptor 3, the notification-fd of s6. */
async function isReady(child: ChildProcess): Promise<void> {
  const notification = child.stdio[3];
  assert.ok(notification !== null && notification !== undefined && 'read' in notification);
  const output = watch(child);
  await Promise.race([
    new Promise((resolve) => notification.once('data', resolve)),
    output.ended.then(() => assert.fail(output.stderr())),
  ]);
}

/** The command of a unit, which delivers into `maildir`. Only root can run smtpd as another user. */
function startCommandOf(name: string, maildir: string): string {
  const [line = ''] = /^ExecStart=.*$/m.exec(unit(name)) ?? [];
  const command = commandIn(line).replace('/var/mail/inbox', maildir);
  assert.ok(command.endsWith(maildir));
  return command;
}

function unit(name: string): string {
  return readFileSync(join(EXAMPLES, 'systemd', name), 'utf8');
}

function commandIn(line: string): string {
  return withPrograms(line.replace('ExecStart=', '')).replace(needsRoot() === false ? '' : USER, '');
}

/** Where the programs are that a unit names: make install has not run. */
function withPrograms(text: string): string {
  return text
    .replaceAll('/usr/local/bin/read-proxy-header', READ_PROXY_HEADER)
    .replaceAll('/usr/local/bin', join(ROOT, 'dist/bin'));
}

/** Checks that smtpd ran as a user who cannot read the key. */
function assertOwner(maildir: string, uid: number): void {
  for (const name of readdirSync(join(maildir, 'new'))) {
    assert.equal(statSync(join(maildir, 'new', name)).uid, uid);
  }
  const { mode, uid: owner } = statSync(pair.keyFile);
  assert.deepEqual([mode & 0o77, owner], [0, 0]);
}

test('systemd: the server accepts mail, and smtpd runs as a user who cannot read the key', {
  skip: missing('perl'),
}, async () => {
  const maildir = join(folder, 'systemd-users');
  const command = startCommandOf('smtpd-starttls-server.service', maildir);
  const words = [join(EXAMPLES, 's6-server/bind'), '127.0.0.1', '0', ...command.split(' ')];
  const child = start(words, folder, { CERTFILE: pair.certFile, KEYFILE: pair.keyFile });
  await deliver(await portOf(child, /event=listening on=\S*:(\d+)$/m, child.stderr), maildir);
  if (needsRoot() === false) assertOwner(maildir, MAIL);
});

test('systemd: a process for each connection accepts mail', async (t) => {
  const maildir = join(folder, 'systemd-accept');
  const command = startCommandOf('smtpd-starttls@.service', maildir);
  const chain = await serve(command.split(' '), {
    ...{ ...NO_UCSPI_TCP, CERTFILE: pair.certFile, KEYFILE: pair.keyFile },
  });
  t.after(chain.close);
  await deliver(chain.port, maildir);
  if (needsRoot() === false) assertOwner(maildir, MAIL);
});

test('systemd: systemd-analyze finds nothing wrong with the units', {
  skip: missing('systemd-analyze'),
}, () => {
  const units = join(folder, 'units');
  mkdirSync(units);
  for (const name of readdirSync(join(EXAMPLES, 'systemd')).filter((name) => name !== 'README.md')) {
    // It checks that the programs exist.
    writeFileSync(join(units, name), withPrograms(unit(name)));
  }
  const files = readdirSync(units).map((name) => join(units, name));
  const verdict = spawnSync('systemd-analyze', ['verify', '--recursive-errors=no', ...files], {
    encoding: 'utf8',
  });
  assert.equal(verdict.stderr, '');
  assert.equal(verdict.status, 0);
});

/** The output of a command, which must succeed. */
function outputOf([file = '', ...args]: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(file, args, { env: environment, encoding: 'utf8' });
  assert.equal(status, 0, `${file}: ${stderr}`);
  return stdout;
}

function common(): Record<string, string> {
  return {
    HOST: '127.0.0.1',
    PORT: '0',
    LOCAL_NAME: 'mail.example.org',
    CERTFILE: pair.certFile,
    KEYFILE: pair.keyFile,
    TLS_UID: NOBODY,
    TLS_GID: NOBODY,
  };
}

function needsRoot(): string | false {
  return process.getuid?.() === 0 ? false : 'it starts as root';
}

/** Waits until the port accepts connections, while the process runs. */
async function reachable(port: number, child: ChildProcess): Promise<void> {
  while (child.exitCode === null) {
    try {
      (await connectSmtp(port)).destroy();
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  throw new Error('xinetd has exited');
}
