/** What docs/migration.md states, and the commands in it whose programs Debian has. */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, type TestContext, test } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { watch } from '../support/chain.ts';
import { daemonFolder, startDaemon } from '../support/daemon.ts';
import { until } from '../support/processes.ts';
import { missing, ours, ROOT } from '../support/programs.ts';
import { run, tcpserver } from '../support/real.ts';
import { familyOf, startServer, tryKill } from '../support/server.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';
import { closedPort } from '../support/tcp.ts';

const PAGE = readFileSync(join(ROOT, 'docs/migration.md'), 'utf8');
const NOBODY = '65534';
const isRoot = process.getuid?.() === 0;
const needsRoot = isRoot ? false : 'it starts as root';

const certificates = makeCertificates();
const pair = certificates.selfSigned('mx.example.org');
const folder = mkdtempSync(join(tmpdir(), 'migration-'));
const programs: NodeJS.ProcessEnv = {
  PATH: `${folder}:${join(ROOT, 'docs/examples/mail-host')}:${join(ROOT, 'dist/bin')}:${process.env.PATH}`,
};

before(async () => {
  chmodSync(folder, 0o755);
  // Accepts every recipient if RELAYCLIENT is set, and shows its user and limit.
  writeScript('qmail-smtpd', `exec ${join(ROOT, 'test/support/programs/qmail-smtpd-double.pl')} "$@"`);
});
after(() => {
  rmSync(folder, { recursive: true, force: true });
  certificates.remove();
});

function writeScript(name: string, command: string): void {
  writeFileSync(join(folder, name), `#!/bin/sh\n${command}\n`);
  chmodSync(join(folder, name), 0o755);
}

/** The indented block of the page that has this in it; the first one. */
function blockWith(part: string): string {
  const blocks = PAGE.match(/(?:^ {4}.*\n)+/gm) ?? [];
  const found = blocks.find((block) => block.includes(part));
  assert.ok(found !== undefined, `no block with ${part}`);
  return found.replaceAll(/^ {4}/gm, '');
}

/** Puts what this machine has in place of what the page names. */
function adapt(text: string): string {
  return text
    .replace(/=\/etc\/ssl\/mail\/(?:fullchain|key-and-cert)\.pem/, `=${pair.certFile}`)
    .replace(/=\/etc\/ssl\/mail\/privkey\.pem/, `=${pair.keyFile}`)
    .replaceAll('/etc/tcp.smtp.cdb', join(folder, 'tcp.smtp.cdb'))
    .replaceAll('/var/qmail/bin/', '')
    .replaceAll('-u 7791 -g 2108', `-u ${NOBODY} -g ${NOBODY}`)
    .replace(/\b0 25\b/, '-1 127.0.0.1 0');
}

/** Runs a script of the page until the end of the test, and returns the port that it prints. */
async function startScript(t: TestContext, script: string): Promise<number> {
  const child = spawn('sh', ['-c', script], {
    env: { ...process.env, ...programs },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const { ended, stderr } = watch(child);
  t.after(async () => {
    for (const pid of familyOf(child.pid ?? 0)) tryKill(pid);
    await ended;
  });
  return portOf(child, stderr);
}

function portOf(child: ChildProcess, stderr: () => string): Promise<number> {
  let output = '';
  return new Promise((resolve, reject) => {
    child.stdout?.on('data', (bytes: Buffer) => {
      output += bytes.toString('latin1');
      const port = /^(\d+)$/m.exec(output)?.[1];
      if (port !== undefined) resolve(Number(port));
    });
    child.stdout?.on('end', () => reject(new Error(`no port in ${output}${stderr()}`)));
  });
}

/** Greets, starts TLS, and tries to relay. */
async function tryToRelay(client: SmtpClient): Promise<string> {
  assert.match(await client.reply(), /^220 /);
  await client.ask('EHLO client.example');
  await client.startTls();
  return relay(client);
}

async function relay(client: SmtpClient): Promise<string> {
  await client.ask('EHLO client.example');
  await client.ask('MAIL FROM:<me@example.com>');
  return client.ask('RCPT TO:<you@example.com>');
}

describe('memory limits', () => {
  for (const [tool, ...words] of [
    ['chpst', '-m', '20000000'],
    ['chpst', '-m', '4000000000'],
    ['softlimit', '-m', '20000000'],
    ['softlimit', '-m', '4000000000'],
  ] as const) {
    const skip = missing(tool);
    const command = [tool, ...words];
    test(`${command.join(' ')} in front of Node ends in a crash`, { skip }, async () => {
      const { status, stdout, stderr } = await run([...command, ours('smtpd-starttls-server'), '--version']);
      // A signal, or what a shell makes of it.
      assert.ok(status === null || status >= 128, `${status}`);
      assert.equal(stdout, '');
      assert.doesNotMatch(stderr, /smtpd-starttls-server:/);
      assert.match(stderr, /^$|Segmentation fault|Assertion failed|Fatal process OOM/);
    });
  }

  for (const tool of ['chpst', 'softlimit']) {
    test(`${tool} -m between the server and smtpd limits smtpd`, { skip: missing(tool) }, async (t) => {
      writeScript('limited', 'printf "220 %s\\r\\n" "$(ulimit -s)"; read -r line');
      const server = await startServer([], [tool, '-m', '20000000', join(folder, 'limited')]);
      t.after(server.close);
      const client = await connectSmtp(server.port);
      assert.equal(await client.reply(), `220 ${Math.floor(20_000_000 / 1024)}`);
      client.destroy();
    });
  }
});

describe('the run script', {
  skip: needsRoot || missing('tcpserver', 'tcprules', 'softlimit', 'perl'),
}, () => {
  before(async () => {
    const cdb = join(folder, 'tcp.smtp.cdb');
    const rules = '127.0.0.2:allow,RELAYCLIENT=""\n127.0.0.3:deny\n:allow\n';
    const { status, stderr } = await run(['tcprules', cdb, `${cdb}.tmp`], { input: rules });
    assert.equal(status, 0, stderr);
    chmodSync(cdb, 0o644);
  });

  for (const program of ['smtpd-starttls-server -v 2', 'smtpd-starttls-proxy -v 2']) {
    test(program, async (t) => {
      const port = await startScript(t, adapt(blockWith(program)));
      const stranger = await connectSmtp(port);
      assert.match(await tryToRelay(stranger), /^553 /);
      await stranger.ask('RCPT TO:<you@example.org>');
      await stranger.ask('DATA');
      const queued = await stranger.ask('hello\r\n.');
      assert.match(queued, new RegExp(`by mx\\.example\\.org TLS TLSv1\\.3 relay no uid ${NOBODY}$`));
      stranger.destroy();
      const friend = await connectSmtp(port, { localAddress: '127.0.0.2' });
      assert.match(await tryToRelay(friend), /^250 /);
      friend.destroy();
      const denied = await connectSmtp(port, { localAddress: '127.0.0.3' });
      assert.match(await denied.rest(), /^(?:554 5\.7\.1 .*)?$/s);
      denied.destroy();
    });
  }
});

test('behind tcpserver -u the key cannot be read', { skip: needsRoot || missing('tcpserver') }, async (t) => {
  const { certFile, keyFile } = pair;
  const publicFolder = mkdtempSync(join(tmpdir(), 'public-'));
  t.after(() => rmSync(publicFolder, { recursive: true }));
  chmodSync(publicFolder, 0o755);
  const [cert, key] = [join(publicFolder, 'fullchain.pem'), join(publicFolder, 'privkey.pem')];
  copyFileSync(certFile, cert);
  copyFileSync(keyFile, key);
  chmodSync(cert, 0o644);
  const server = await tcpserver(
    t,
    ['setpriv', `--reuid=${NOBODY}`, '--clear-groups', ours('smtpd-starttls-proxy'), 'cat'],
    {
      ...{ CERTFILE: cert, KEYFILE: key },
    },
  );
  const client = await connectSmtp(server.port);
  assert.match(await client.reply(), /^421 4\.3\.0 /);
  client.destroy();
  await until('the reason is logged', () =>
    server.stderr().includes(`unable to read KEYFILE ${key}: EACCES`),
  );
});

test('setuid programs below smtpd need NoNewPrivileges=no', {
  skip: needsRoot || missing('setpriv'),
}, async (t) => {
  const id = join(folder, 'setuid-id');
  copyFileSync('/usr/bin/id', id);
  chmodSync(id, 0o4755);
  writeScript('show-user', `printf '220 %s\\r\\n' "$(${id} -u)"; read -r line`);
  for (const [under, user] of [
    [[], '0'],
    [['setpriv', '--no-new-privs'], NOBODY],
  ] as const) {
    const server = await startServer(['-u', NOBODY, '-g', NOBODY], [join(folder, 'show-user')], { under });
    t.after(server.close);
    const client = await connectSmtp(server.port);
    assert.equal(await client.reply(), `220 ${user}`);
    client.destroy();
  }
});

test('ours is recognized as a script', async () => {
  const command = blockWith('head -c 2').trim();
  const { stdout } = await run(['sh', '-c', command], { environment: programs });
  assert.equal(stdout, '#!');
});

test('stunnel in front names its clients by the PROXY protocol', { skip: missing('stunnel') }, async (t) => {
  const words = blockWith('--proxy-protocol').trim().split(' ');
  assert.deepEqual(words.slice(-4), ['127.0.0.1', '127.0.0.1', '4650', 'qmail-smtpd']);
  const server = await startServer(words.slice(1, -3), [join(folder, 'qmail-smtpd')]);
  t.after(server.close);
  const port = await closedPort();
  const conf = blockWith('[submissions]')
    .replace('/etc/ssl/mail/fullchain.pem', pair.certFile)
    .replace('/etc/ssl/mail/privkey.pem', pair.keyFile)
    .replace('accept = 465', `accept = 127.0.0.1:${port}`)
    .replace('127.0.0.1:4650', `127.0.0.1:${server.port}`);
  const place = daemonFolder();
  writeFileSync(join(place, 'stunnel.conf'), `foreground = yes\npid =\n${conf}`);
  const daemon = startDaemon(t, place, ['stunnel', join(place, 'stunnel.conf')]);
  await daemon.logs(/Configuration successful/);
  const client = await connectSmtp(port, { localAddress: '127.0.0.5' });
  await client.shakeHands();
  assert.match(await client.reply(), /^220 /);
  await client.ask('EHLO client.example');
  await client.ask('MAIL FROM:<me@example.com>');
  await client.ask('RCPT TO:<you@example.org>');
  await client.ask('DATA');
  assert.match(await client.ask('hello\r\n.'), /^250 ok from 127\.0\.0\.5 /);
  client.destroy();
});

test('one file with key and certificates is both, as of tlswrapper and the TLS patches', {
  skip: needsRoot || missing('tcpserver', 'tlswrapper', 'perl'),
}, async (t) => {
  const both = join(folder, 'key-and-cert.pem');
  writeFileSync(both, readFileSync(pair.keyFile, 'utf8') + readFileSync(pair.certFile, 'utf8'), {
    mode: 0o600,
  });
  const as = (text: string): string =>
    adapt(text.replaceAll('/etc/ssl/mail/key-and-cert.pem', both).replace(/\b0 25\b/, '-HRl0 0 25'));
  for (const block of ['tlswrapper -n', 'export CERTFILE=/etc/ssl/mail/key-and-cert.pem']) {
    const port = await startScript(t, as(blockWith(block)).replace('-u qmaild', '-u nobody'));
    const client = await connectSmtp(port);
    assert.match(await client.reply(), /^220 /);
    await client.ask('EHLO client.example');
    await client.startTls();
    assert.match(await relay(client), /^553 /);
    client.destroy();
  }
});
