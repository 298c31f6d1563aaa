/** smtp-relay-io with ssh:// and a real sshd. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { until } from '../support/processes.ts';
import { fixture, ours } from '../support/programs.ts';
import { quit, type Relay, sendMessage, startRelay } from '../support/relay.ts';
import { noSshd, type Sshd, startSshd } from '../support/sshd.ts';

interface Setup {
  readonly sshd: Sshd;
  /** For the sockets of shared connections. */
  readonly runtime: string;
  /** The delivered messages. */
  mails(): string[];
  relay(url?: string, ...options: string[]): Relay;
}

/** An sshd whose key for us runs smtpd-maildir, and nothing else, unless there is another command. */
async function open(t: TestContext, command?: string): Promise<Setup> {
  // Short: paths of Unix sockets are limited.
  const runtime = mkdtempSync(join(tmpdir(), 'relay-'));
  const folder = mkdtempSync(join(tmpdir(), 'relay-ssh-'));
  t.after(() => {
    rmSync(runtime, { recursive: true, force: true });
    rmSync(folder, { recursive: true, force: true });
  });
  const maildir = join(folder, 'Maildir');
  const sshd = await startSshd(
    t,
    folder,
    command ?? `${process.execPath} ${ours('smtpd-maildir')} ${maildir}`,
  );
  const words = [...sshd.words, '-o', 'ControlPersist=1'].map((word) => `--ssh-option=${word}`);
  return {
    ...{ sshd, runtime },
    mails: () =>
      existsSync(join(maildir, 'new'))
        ? readdirSync(join(maildir, 'new')).map((name) => readFileSync(join(maildir, 'new', name), 'latin1'))
        : [],
    relay: (url = `ssh://127.0.0.1:${sshd.port}`, ...options) =>
      startRelay(t, ['-v', '2', ...words, ...options, url], { XDG_RUNTIME_DIR: runtime }),
  };
}

describe('smtp-relay-io with ssh://', { skip: noSshd() }, () => {
  it('delivers a message', async (t) => {
    const { relay, mails } = await open(t);
    const run = relay();
    assert.equal(await sendMessage(run), undefined);
    assert.equal(await run.status, 0, run.stderr());
    assert.match(mails().join(), /Hi\./);
  });

  it('offers what the server offers, and its own greeting', async (t) => {
    const { relay } = await open(t, fixture('smtpd-script').join(' '));
    const run = relay();
    assert.match(await run.reply(), /^220 \S+ ESMTP$/);
    assert.equal(await run.ask('EHLO client.example'), '250-smtpd-script\n250 8BITMIME');
    await quit(run);
    assert.equal(await run.status, 0);
  });

  for (const [what, known] of [
    ['another', (key: string) => key],
    ['no', () => ''],
  ] as const) {
    it(`delivers nothing to a server of which ${what} key is known: 451`, async (t) => {
      const { sshd, relay, mails } = await open(t);
      const other = mkdtempSync(join(tmpdir(), 'relay-key-'));
      t.after(() => rmSync(other, { recursive: true, force: true }));
      execFileSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(other, 'key')]);
      const key = readFileSync(join(other, 'key.pub'), 'latin1');
      sshd.knowHosts(known(`[127.0.0.1]:${sshd.port} ${key}`));
      const run = relay(undefined, '--ssh-option=-oStrictHostKeyChecking=no');
      const reply = await sendMessage(run);
      assert.match(reply ?? '', /^451 4\.4\.1 127\.0\.0\.1: ssh failed: exit status 255$/);
      assert.equal(await run.status, 111);
      assert.match(run.stderr(), /^Host key verification failed\.\r?$/m);
      assert.match(
        run.stderr(),
        /^smtp-relay-io: warning: unable to relay to ssh:\S+: ssh failed: exit status 255$/m,
      );
      assert.deepEqual(mails(), []);
    });
  }

  it('delivers a message although the directory of shared connections belongs to others', async (t) => {
    const { relay, runtime, mails } = await open(t);
    mkdirSync(join(runtime, `smtp-relay-io-${userInfo().uid}`), { mode: 0o755 });
    const run = relay();
    assert.equal(await sendMessage(run), undefined);
    assert.equal(await run.status, 0, run.stderr());
    assert.match(run.stderr(), /^smtp-relay-io: warning: unable to share connections of ssh in /m);
    assert.equal(mails().length, 1);
  });

  it('answers 451 if ssh cannot be run', async (t) => {
    const { relay } = await open(t);
    const run = relay(undefined, '--ssh', '/nowhere/ssh');
    assert.match((await sendMessage(run)) ?? '', /^451 4\.4\.1 127\.0\.0\.1: ssh failed: exit status 127$/);
    assert.equal(await run.status, 111);
    assert.match(run.stderr(), /: cannot run \/nowhere\/ssh: ENOENT \(no such program: [^\n]+\)$/m);
  });

  it('answers 451 if the server cannot be reached', async (t) => {
    const { relay } = await open(t);
    const run = relay('ssh://127.0.0.1:1');
    assert.match((await sendMessage(run)) ?? '', /^451 4\.4\.1 127\.0\.0\.1: ssh failed: exit status 255$/);
    assert.equal(await run.status, 111);
  });

  it('gives the status 111 when the command on the other side is lost', async (t) => {
    const { relay } = await open(t, `${fixture('smtpd-script').join(' ')} '--on=MAIL:exit 9'`);
    const run = relay();
    await run.reply();
    await run.ask('EHLO client.example');
    run.send('MAIL FROM:<a@client.example>');
    assert.match(await run.rest(), /^421 4\.3\.0 /);
    assert.equal(await run.status, 111);
  });

  it('passes a signal on, and leaves no ssh behind', async (t) => {
    const { relay, runtime } = await open(t);
    const run = relay();
    await run.reply();
    await run.ask('EHLO client.example');
    run.child.kill('SIGTERM');
    assert.equal(await run.status, 111);
    await until('no ssh is left', () => {
      const all = execFileSync('ps', ['-e', '-o', 'args='], { encoding: 'latin1' });
      return !all.split('\n').some((line) => line.includes(runtime));
    });
  });
});
