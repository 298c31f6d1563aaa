/** docs/examples/mail-host, and the commands of docs/mail-host.md, with stand-ins for qmail-smtpd and checkpassword. */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { watch } from '../support/chain.ts';
import { missing, ROOT } from '../support/programs.ts';
import { run } from '../support/real.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { connectSmtp } from '../support/smtp-client.ts';

const EXAMPLE = join(ROOT, 'docs/examples/mail-host');
const PAGE = readFileSync(join(ROOT, 'docs/mail-host.md'), 'utf8');
const TCP_RULES = join(EXAMPLE, 'tcp-rules');
const BIND = join(ROOT, 'docs/examples/s6-server/bind');
const SERVICES = ['smtp', 'submission', 'submissions'] as const;
const NOBODY = '65534';

const certificates = makeCertificates();
const pair = certificates.selfSigned('mx.example.org');
const folder = mkdtempSync(join(tmpdir(), 'mail-host-'));
const cdb = join(folder, 'tcp.smtp.cdb');
const checkpassword = join(folder, 'checkpassword');
const skip = missing('perl', 'tcprules') || (process.getuid?.() === 0 ? false : 'it starts as root');

before(() => {
  if (skip !== false) return;
  // qmail-smtpd runs as another user.
  chmodSync(folder, 0o755);
  writeFileSync(
    checkpassword,
    '#!/bin/sh\n[ "$(tr "\\0" " " <&3)" = "alice secret time " ] && exec "$@"\nexit 1\n',
  );
  chmodSync(checkpassword, 0o755);
  compile('127.0.0.2:allow,RELAYCLIENT=""\n127.0.0.3:deny\n:allow\n');
});

after(() => {
  rmSync(folder, { recursive: true, force: true });
  certificates.remove();
});

function compile(rules: string): void {
  const { status, stderr } = spawnSync('tcprules', [cdb, `${cdb}.tmp`], { input: rules, encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  chmodSync(cdb, 0o644);
}

/** Puts what this machine has in place of what the examples name. */
function adapt(text: string): string {
  return text
    .replaceAll('/usr/local/bin/tcp-rules', TCP_RULES)
    .replaceAll('/usr/local/bin', join(ROOT, 'dist/bin'))
    .replaceAll('/var/qmail/bin/qmail-smtpd', join(ROOT, 'test/support/programs/qmail-smtpd-double.pl'))
    .replaceAll('/bin/checkpassword', checkpassword)
    .replaceAll('/etc/tcp.smtp.cdb', cdb)
    .replaceAll('/etc/mail-host/env\n', `${folder}/env\n`)
    .replaceAll(/(--metrics 127\.0\.0\.1):\d+/g, '$1:0');
}

/** A server that was started by an example. */
interface Started {
  readonly port: number;
  close(): Promise<void>;
}

/** Runs the command of a unit, with a socket as systemd passes it. */
function startUnit(name: string): Promise<RunningServer> {
  const unit = readFileSync(join(EXAMPLE, 'systemd', `${name}.service`), 'utf8');
  assert.match(unit, /^EnvironmentFile=\/etc\/mail-host\/environment$/m);
  const [, command = ''] = /^ExecStart=(.*)$/m.exec(unit) ?? [];
  const environment = environmentFile();
  const words = adapt(command)
    .replaceAll(/\$\{(\w+)\}/g, (_, variable: string) => environment[variable] ?? '')
    .split(' ');
  const dash = words.indexOf('-');
  return startServer(words.slice(1, dash), words.slice(dash + 1), {
    listen: ['-'],
    under: [BIND, '127.0.0.1', '0'],
    environment,
  });
}

/** The variables of the file `environment`, with the certificate and the user of this test. */
function environmentFile(): Record<string, string> {
  const text = readFileSync(join(EXAMPLE, 'environment'), 'utf8');
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const variables = Object.fromEntries(lines.map((line) => line.split('='))) as Record<string, string>;
  assert.deepEqual(Object.keys(variables).sort(), ['CERTFILE', 'GID', 'KEYFILE', 'LOCAL_NAME', 'UID']);
  return { ...variables, CERTFILE: pair.certFile, KEYFILE: pair.keyFile, UID: NOBODY, GID: NOBODY };
}

/** Runs a service of s6. */
async function startService(name: string): Promise<Started> {
  const service = join(folder, name);
  const script = adapt(readFileSync(join(EXAMPLE, 's6', name, 'run'), 'utf8'));
  mkdirSync(service, { recursive: true });
  mkdirSync(join(folder, 'env'), { recursive: true });
  const { LOCAL_NAME = '', CERTFILE = '', KEYFILE = '' } = environmentFile();
  const [, directories] = /^ {4}echo (\S+) > \/etc\/mail-host\/env\/PATH$/m.exec(PAGE) ?? [];
  assert.ok(directories !== undefined);
  const PATH = [EXAMPLE, join(ROOT, 'dist/bin'), directories, dirname(process.execPath)].join(':');
  for (const [variable, value] of Object.entries({ LOCAL_NAME, CERTFILE, KEYFILE, PATH })) {
    writeFileSync(join(folder, 'env', variable), value);
  }
  assert.equal(readFileSync(join(EXAMPLE, 's6', name, 'notification-fd'), 'utf8'), '3\n');
  writeFileSync(
    join(service, 'run'),
    script.replace('s6-envuidgid qmaild', 's6-envuidgid nobody').replace(/ 0 \d+\n/, ' 127.0.0.1 0\n'),
  );
  chmodSync(join(service, 'run'), 0o755);
  const child = spawn('./run', [], {
    cwd: service,
    stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
  });
  const { ended } = watch(child);
  const [port] = await Promise.all([portOf(child), newlineOn(child.stdio[3])]);
  return {
    port,
    close: async () => {
      child.kill('SIGTERM');
      await ended;
    },
  };
}

/** The port in the log on stdout. */
function portOf(child: ChildProcess): Promise<number> {
  let output = '';
  return new Promise((resolve, reject) => {
    child.stdout?.on('data', (bytes: Buffer) => {
      output += bytes.toString('latin1');
      const port = /event=listening on=\S*:(\d+)$/m.exec(output)?.[1];
      if (port !== undefined) resolve(Number(port));
    });
    child.stdout?.on('end', () => reject(new Error(`no port in ${output}`)));
  });
}

/** Waits for the notification of readiness. */
async function newlineOn(stream: ChildProcess['stdio'][number] | undefined): Promise<void> {
  assert.ok(stream !== null && stream !== undefined && 'read' in stream);
  await new Promise((resolve) => stream.once('data', resolve));
}

const login = (password: string): string =>
  `AUTH PLAIN ${Buffer.from(`\0alice\0${password}`).toString('base64')}`;

const ways = [
  { title: 'systemd', start: startUnit, absent: skip },
  { title: 's6', start: startService, absent: skip || missing('execlineb', 's6-envuidgid', 's6-softlimit') },
];
for (const { title, start, absent } of ways) {
  describe(title, { skip: absent }, () => {
    test('port 25 accepts mail for its domains, and relays for clients with RELAYCLIENT only', async (t) => {
      const { port, close } = await start('smtp');
      t.after(close);
      const client = await connectSmtp(port);
      assert.match(await client.reply(), /^220 /);
      assert.doesNotMatch(await client.ask('EHLO client.example'), /AUTH/);
      await client.startTls();
      assert.doesNotMatch(await client.ask('EHLO client.example'), /AUTH/);
      await client.ask('MAIL FROM:<me@example.com>');
      assert.match(await client.ask('RCPT TO:<you@example.com>'), /^553 /);
      assert.match(await client.ask('RCPT TO:<you@example.org>'), /^250 /);
      await client.ask('DATA');
      assert.equal(
        await client.ask('hello\r\n.'),
        `250 ok from 127.0.0.1 by mx.example.org TLS TLSv1.3 relay no uid ${NOBODY}`,
      );
      client.destroy();

      const relayed = await connectSmtp(port, { localAddress: '127.0.0.2' });
      await relayed.reply();
      await relayed.ask('HELO client.example');
      await relayed.ask('MAIL FROM:<me@example.com>');
      assert.match(await relayed.ask('RCPT TO:<you@example.com>'), /^250 /);
      relayed.destroy();

      const denied = await connectSmtp(port, { localAddress: '127.0.0.3' });
      assert.match(await denied.reply(), /^554 5\.7\.1 /);
      denied.destroy();
    });

    for (const [name, implicit] of [
      ['submission', false],
      ['submissions', true],
    ] as const) {
      test(`${name} relays for users with a password, in TLS`, async (t) => {
        const { port, close } = await start(name);
        t.after(close);
        const client = await connectSmtp(port);
        if (implicit) {
          await client.shakeHands();
          assert.match(await client.reply(), /^220 /);
        } else {
          assert.match(await client.reply(), /^220 /);
          assert.doesNotMatch(await client.ask('EHLO client.example'), /AUTH/);
          assert.match(await client.ask('MAIL FROM:<me@example.org>'), /^530 /);
          assert.match(await client.ask(login('secret')), /^538 /);
          await client.startTls();
        }
        assert.match(await client.ask('EHLO client.example'), /AUTH LOGIN PLAIN/);
        assert.match(await client.ask(login('wrong')), /^535 /);
        await client.ask('MAIL FROM:<me@example.org>');
        assert.match(await client.ask('RCPT TO:<you@example.com>'), /^553 /);
        assert.match(await client.ask(login('secret')), /^235 /);
        assert.match(await client.ask('RCPT TO:<you@example.com>'), /^250 /);
        await client.ask('DATA');
        assert.equal(
          await client.ask('hello\r\n.'),
          `250 ok from 127.0.0.1 by mx.example.org TLS TLSv1.3 relay yes uid ${NOBODY}`,
        );
        client.destroy();
      });
    }
  });
}

test('tcp-rules passes all variables of a rule on, and starts no smtpd without rules', { skip }, async () => {
  const rules = (address: string, file = cdb): ReturnType<typeof run> =>
    run(
      [
        TCP_RULES,
        file,
        'sh',
        '-c',
        'echo "$(printenv RELAYCLIENT || echo unset)|$(printenv DATABYTES || echo unset)|$1"',
        'sh',
        'a  b',
      ],
      {
        environment: { TCPREMOTEIP: address },
      },
    );
  compile('192.0.2.:allow,RELAYCLIENT="",DATABYTES="5 * 2"\n:allow\n');
  assert.equal((await rules('192.0.2.1')).stdout, '|5 * 2|a  b\n');
  assert.equal((await rules('198.51.100.1')).stdout, 'unset|unset|a  b\n');
  const none = await rules('192.0.2.1', join(folder, 'nothing.cdb'));
  assert.deepEqual([none.status, none.stdout], [111, '']);
  assert.match(none.stderr, /^tcp-rules: fatal: unable to read .*nothing\.cdb for 192\.0\.2\.1$/m);
});

test('tcp-rules starts no smtpd for a client that is denied, if it cannot read the rules', {
  skip,
}, async () => {
  compile('127.0.0.3:deny\n:allow\n');
  // With few descriptors a shell cannot read the output of another program, or its own here-document; with more it can.
  const statuses: (number | null)[] = [];
  for (const count of [4, 5, 6, 8, 10, 11, 12, 13, 14, 20]) {
    const { stdout, status } = await run(
      ['sh', '-c', `ulimit -n ${count}; exec "$@"`, 'sh', TCP_RULES, cdb, 'echo', 'started'],
      { environment: { TCPREMOTEIP: '127.0.0.3' } },
    );
    assert.doesNotMatch(stdout, /started/, `${count} descriptors`);
    assert.equal(
      status === 0,
      stdout === '554 5.7.1 No service for your address\r\n',
      `${count} descriptors`,
    );
    statuses.push(status);
  }
  assert.ok(statuses.includes(0) && statuses.some((status) => status !== 0), statuses.join());
});

test('the rules of the page let the networks in them relay, and deny no one', { skip }, async () => {
  const script = [...linesOf('printf '), ...linesOf('tcprules ')]
    .join('\n')
    .replaceAll('/etc/', `${folder}/`);
  const { status, stderr } = await run(['sh', '-c', script]);
  assert.equal(status, 0, stderr);
  for (const [address, relay] of [
    ['127.0.0.1', 'yes'],
    ['192.0.2.1', 'yes'],
    ['198.51.100.1', 'no'],
  ]) {
    const show = ['sh', '-c', 'printenv RELAYCLIENT > /dev/null && echo yes || echo no'];
    const { stdout } = await run([TCP_RULES, cdb, ...show], {
      environment: { TCPREMOTEIP: address, RELAYCLIENT: undefined },
    });
    assert.equal(stdout, `${relay}\n`, address);
  }
});

test('the metrics that the page names are served', { skip: skip || missing('curl') }, async (t) => {
  const server = await startUnit('smtp');
  t.after(server.close);
  await server.logs(/event=metrics port=\d+/);
  const [, port = ''] = /event=metrics port=(\d+)/.exec(server.stderr()) ?? [];
  const client = await connectSmtp(server.port, { localAddress: '127.0.0.5' });
  await client.reply();
  await client.ask('QUIT');
  client.destroy();
  await server.logs(/event=end /);
  const [command = ''] = linesOf('curl ');
  const { stdout } = await run(['sh', '-c', command.replace('9025', port)]);
  const named = [...PAGE.matchAll(/^\| .* \| (`\w+_\w+`.*) \|$/gm)].flatMap(([, cell = '']) =>
    [...cell.matchAll(/`(\w+_\w+)`/g)].map(([, name = '']) => name),
  );
  assert.ok(named.length > 6);
  assert.deepEqual(
    named.filter((name) => !stdout.includes(`# TYPE smtpd_starttls_${name} `)),
    [],
  );
});

test('systemd-analyze finds nothing wrong with the units', { skip: missing('systemd-analyze') }, () => {
  const units = join(folder, 'units');
  mkdirSync(units);
  const names = readdirSync(join(EXAMPLE, 'systemd'));
  assert.deepEqual(names.sort(), SERVICES.flatMap((name) => [`${name}.service`, `${name}.socket`]).sort());
  for (const name of names) {
    writeFileSync(join(units, name), adapt(readFileSync(join(EXAMPLE, 'systemd', name), 'utf8')));
  }
  const verdict = spawnSync(
    'systemd-analyze',
    ['verify', '--recursive-errors=no', ...names.map((name) => join(units, name))],
    { encoding: 'utf8' },
  );
  assert.deepEqual([verdict.stderr, verdict.status], ['', 0]);
});

/** The indented lines of the page that begin with this, the first at least. */
function linesOf(start: string): string[] {
  const lines = PAGE.split('\n').filter((line) => /^ {4,6}\S/.test(line) && line.trim().startsWith(start));
  assert.notEqual(lines.length, 0, start);
  return lines.map((line) => line.trim());
}

test('the commands of the page that copy the files of the example find them', async () => {
  const root = join(folder, 'root');
  for (const name of ['etc/systemd/system', 'usr/local/bin', 'run/service']) {
    mkdirSync(join(root, name), { recursive: true });
  }
  const script = ['set -e', `cd ${EXAMPLE}`, ...linesOf('install '), ...linesOf('cp ')]
    .join('\n')
    .replaceAll(/ (?=\/(?:etc|usr|run)\/)/g, ` ${root}`);
  const { status, stderr } = await run(['sh', '-c', script]);
  assert.equal(status, 0, stderr);
  assert.deepEqual(readdirSync(join(root, 'etc/systemd/system')), readdirSync(join(EXAMPLE, 'systemd')));
  assert.deepEqual(readdirSync(join(root, 'run/service')), [...SERVICES]);
  assert.ok(existsSync(join(root, 'usr/local/bin/tcp-rules')));
  assert.ok(existsSync(join(root, 'etc/mail-host/environment')));
});

test('the commands of the page that try the host do what they are meant to', {
  skip: skip || missing('swaks'),
}, async (t) => {
  const servers = Object.fromEntries(
    await Promise.all(
      SERVICES.map(async (name) => {
        const server = await startUnit(name);
        t.after(server.close);
        return [name, server.port] as const;
      }),
    ),
  );
  const ports: Readonly<Record<string, number | undefined>> = {
    25: servers.smtp,
    587: servers.submission,
    465: servers.submissions,
  };
  compile(':allow\n');
  for (const line of linesOf('swaks ')) {
    const command = line
      .replace(/mx\.example\.org:(\d+)/, (_, port: string) => `127.0.0.1:${ports[port]}`)
      .replace(/ # .*/, '');
    const { status, stdout, stderr } = await run(['sh', '-c', command]);
    const isRefused = line.includes('# must be refused');
    const isLogin = line.includes('--auth');
    // The statuses of swaks: no recipient was accepted, and no authentication succeeded.
    assert.equal(status, isRefused ? (isLogin ? 28 : 24) : 0, `${command}\n${stdout}${stderr}`);
    if (isRefused) assert.match(stdout, isLogin ? /535 / : /553 sorry/);
  }
});
