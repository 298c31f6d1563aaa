/** SMTP servers that a real sshd leads to, by the command that lib/smtpd/relay/ssh-command.ts makes. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it, type TestContext } from 'node:test';
import { holdOpening } from '../../lib/smtpd/hold-opening.ts';
import { startProgram } from '../../lib/smtpd/process.ts';
import { sshCommand } from '../../lib/smtpd/relay/ssh-command.ts';
import { parseSshUrl } from '../../lib/smtpd/relay/ssh-url.ts';
import { endSmtpd } from '../../lib/smtpd/smtpd.ts';
import { until } from '../support/processes.ts';
import { fixture } from '../support/programs.ts';
import { noSshd, type Sshd, startSshd } from '../support/sshd.ts';
import { listenTcp } from '../support/tcp.ts';

/** A short path: those of Unix sockets are limited. */
const runtime = mkdtempSync(join(tmpdir(), 'ssh-'));
const folder = join(runtime, `smtp-relay-io-${userInfo().uid}`);
const previous = process.env.XDG_RUNTIME_DIR;
before(() => {
  process.env.XDG_RUNTIME_DIR = runtime;
});
after(() => {
  if (previous === undefined) delete process.env.XDG_RUNTIME_DIR;
  else process.env.XDG_RUNTIME_DIR = previous;
  rmSync(runtime, { recursive: true, force: true });
});

const SMTPD = fixture('smtpd-script').join(' ');

async function start(t: TestContext, forcedCommand?: string): Promise<Sshd> {
  const keys = mkdtempSync(join(tmpdir(), 'sshd-'));
  t.after(() => rmSync(keys, { recursive: true, force: true }));
  return startSshd(t, keys, forcedCommand);
}

/** Nothing is to be reported. */
const fail = (why: string): void => assert.fail(why);

/** Opens a session and ends it. */
async function openBy(sshd: Sshd, rest: string, words: readonly string[] = []) {
  const target = parseSshUrl(`ssh://127.0.0.1:${sshd.port}${rest}`);
  // On a busy machine the next session begins a second or two later.
  const persist = ['-o', 'ControlPersist=4'];
  const command = sshCommand(target, { program: 'ssh', words: [...sshd.words, ...persist, ...words] }, fail);
  const smtpd = startProgram(command, process.env);
  const { outcome } = await holdOpening(smtpd, ['EHLO client.example'], 20_000, new Promise(() => {}));
  return { outcome, ...(await endSmtpd(smtpd)) };
}

/** The shared connections, with the processes that hold them. */
function shared(): { sockets: number; processes: number } {
  const all = execFileSync('ps', ['-e', '-o', 'args='], { encoding: 'latin1' });
  return {
    sockets: readdirSync(folder).length,
    processes: all.split('\n').filter((line) => line.includes(folder)).length,
  };
}

describe('an SMTP server by ssh', { skip: noSshd() }, () => {
  it('runs the forced command of the key, whatever the URL says', async (t) => {
    const sshd = await start(t, SMTPD);
    const { outcome, status } = await openBy(sshd, '/rm%20-rf%20nothing');
    assert.equal(outcome.type, 'ready');
    assert.equal(status, 0);
    await until('the shared connection is closed', () => shared().sockets + shared().processes === 0, 30_000);
  });

  it('runs the command of the URL', async (t) => {
    const sshd = await start(t);
    const { outcome } = await openBy(
      sshd,
      `/${encodeURIComponent(`${SMTPD} '--start=line 220 by command'`)}`,
    );
    assert.ok(outcome.type === 'ready');
    assert.deepEqual(outcome.greeting.texts, ['by command']);
  });

  it('connects from there with ?connect=', async (t) => {
    const port = await listenTcp(t, (socket) => {
      socket.write('220 behind ssh\r\n');
      socket.on('data', () => socket.write('250 ok\r\n'));
    });
    const sshd = await start(t);
    const { outcome } = await openBy(sshd, `?connect=127.0.0.1:${port}`);
    assert.ok(outcome.type === 'ready');
    assert.deepEqual(outcome.greeting.texts, ['behind ssh']);
  });

  it('shares a connection, which is closed after ControlPersist', async (t) => {
    const sshd = await start(t, SMTPD);
    for (let count = 0; count < 3; count++) assert.equal((await openBy(sshd, '')).outcome.type, 'ready');
    assert.equal(sshd.stderr().split('Accepted publickey').length - 1, 1);
    await until('the shared connection is closed', () => shared().sockets + shared().processes === 0, 30_000);
  });

  it('shares no connection with sessions that have other words, such as another key', async (t) => {
    const sshd = await start(t, SMTPD);
    for (const word of ['', '-4']) {
      assert.equal((await openBy(sshd, '', word === '' ? [] : [word])).outcome.type, 'ready');
    }
    assert.equal(sshd.stderr().split('Accepted publickey').length - 1, 2);
    await until('the shared connections are closed', () => shared().sockets + shared().processes === 0);
  });

  it('works with an ssh that does not share connections', async (t) => {
    const sshd = await start(t, SMTPD);
    assert.equal((await openBy(sshd, '', ['-o', 'ControlMaster=no'])).outcome.type, 'ready');
    assert.equal(shared().sockets, 0);
  });

  for (const [what, known] of [
    ['another', (key: string) => key],
    ['no', () => ''],
  ] as const) {
    it(`has no session with a server of which ${what} key is known, even if asked to`, async (t) => {
      const sshd = await start(t, SMTPD);
      const other = mkdtempSync(join(tmpdir(), 'sshd-'));
      t.after(() => rmSync(other, { recursive: true, force: true }));
      execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(other, 'key')]);
      const key = execFileSync('cat', [join(other, 'key.pub')], { encoding: 'latin1' });
      sshd.knowHosts(known(`[127.0.0.1]:${sshd.port} ${key}`));
      const asked = [
        'StrictHostKeyChecking=no',
        'NoHostAuthenticationForLocalhost=yes',
        'VerifyHostKeyDNS=yes',
      ];
      const words = asked.flatMap((option) => ['-o', option]);
      const { outcome, status } = await openBy(sshd, '', words);
      assert.deepEqual(outcome, { type: 'broken', why: undefined });
      assert.equal(status, 255);
      assert.doesNotMatch(sshd.stderr(), /Accepted/);
    });
  }

  it('has no session with a key that the server does not accept', async (t) => {
    const sshd = await start(t, SMTPD);
    const { outcome, status } = await openBy(sshd, '', ['-o', 'IdentityFile=none', '-l', 'nobody']);
    assert.deepEqual([outcome.type, status], ['broken', 255]);
  });
});

describe('the directory of shared connections', () => {
  const target = parseSshUrl('ssh://mx.example');

  /** The path of the socket, and what is reported. */
  function controlPath(...words: string[]): { path: string; warnings: string[] } {
    const warnings: string[] = [];
    const command = sshCommand(target, { program: 'ssh', words }, (why) => warnings.push(why));
    const path = command.find((word) => word.startsWith('ControlPath='))?.slice('ControlPath='.length) ?? '';
    return { path, warnings };
  }

  /** It is not used, with this reason. */
  function refused(why: RegExp): void {
    const { path, warnings } = controlPath();
    assert.equal(path, 'none');
    assert.match(warnings.join('\n'), why);
  }

  it('is made for this user alone, with another path for other words', () => {
    rmSync(folder, { recursive: true, force: true });
    const { path, warnings } = controlPath();
    assert.deepEqual(warnings, []);
    assert.match(path.replace(folder, ''), /^\/%C[\w-]{4}$/);
    assert.equal(statSync(folder).mode & 0o777, 0o700);
    assert.equal(controlPath().path, path);
    assert.notEqual(controlPath('-i', 'key').path, path);
  });

  it('is not used if others can use it', () => {
    chmodSync(folder, 0o755);
    refused(/^unable to share connections of ssh in \S+: it is not a directory that only this user can use$/);
    chmodSync(folder, 0o700);
  });

  it('is not used if it is a link', () => {
    const elsewhere = join(runtime, 'elsewhere');
    mkdirSync(elsewhere, { mode: 0o700 });
    rmSync(folder, { recursive: true, force: true });
    symlinkSync(elsewhere, folder);
    refused(/: it is not a directory that only this user can use$/);
    rmSync(folder);
  });

  it('is not used if it cannot be made, or if ssh cannot have sockets in it', () => {
    for (const [path, why] of [
      ['/dev/null', /: (?:ENOTDIR|EEXIST)$/],
      [join(runtime, 'x'.repeat(60)), /: its path is too long, or has special characters$/],
      [join(runtime, 'a b'), /: its path is too long, or has special characters$/],
      [join(runtime, '%d'), /: its path is too long, or has special characters$/],
    ] as const) {
      process.env.XDG_RUNTIME_DIR = path;
      refused(why);
    }
    process.env.XDG_RUNTIME_DIR = runtime;
  });

  it('is in the directory for temporary files if XDG_RUNTIME_DIR is no absolute path', () => {
    const { TMPDIR } = process.env;
    process.env.TMPDIR = runtime;
    for (const path of ['', 'run']) {
      process.env.XDG_RUNTIME_DIR = path;
      assert.equal(join(controlPath().path, '..'), folder);
    }
    process.env.XDG_RUNTIME_DIR = runtime;
    if (TMPDIR === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = TMPDIR;
  });
});
