/** Certificates that are renewed while the server runs. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, renameSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates, type Pair } from '../support/certificate.ts';
import { childrenOf, statusOf, until } from '../support/processes.ts';
import { fixture } from '../support/programs.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';

const certificates = makeCertificates();
const old = certificates.selfSigned('old.example.org');
const renewed = certificates.selfSigned('new.example.org');
const third = certificates.selfSigned('third.example.org');
const OLD = 'CN=old.example.org';
const NEW = 'CN=new.example.org';

after(() => certificates.remove());

/** A server, and the two files with its certificate and key. */
interface Scene {
  readonly server: RunningServer;
  readonly files: Pair;
  /** Writes another pair to the files. */
  install(pair: Pair): void;
}

async function open(t: TestContext, options: readonly string[] = []): Promise<Scene> {
  const folder = mkdtempSync(join(tmpdir(), 'renewal-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const files = { certFile: join(folder, 'cert.pem'), keyFile: join(folder, 'key.pem') };
  const install = ({ certFile, keyFile }: Pair): void => {
    copyFileSync(certFile, files.certFile);
    copyFileSync(keyFile, files.keyFile);
  };
  install(old);
  const environment = { CERTFILE: files.certFile, KEYFILE: files.keyFile };
  const server = await startServer(options, fixture('smtpd-script'), { environment });
  t.after(server.close);
  return { server, files, install };
}

async function startTls(t: TestContext, { port }: RunningServer): Promise<SmtpClient> {
  const client = await connectSmtp(port);
  t.after(client.destroy);
  await client.reply();
  await client.startTls();
  return client;
}

async function subjectShown(t: TestContext, server: RunningServer): Promise<string | undefined> {
  const client = await startTls(t, server);
  const subject = client.tls().getPeerX509Certificate()?.subject;
  assert.match(await client.ask('QUIT'), /^221 /);
  client.end();
  return subject;
}

/** Connects until a subject is shown, and then often enough to reach each worker. */
async function assertShown(t: TestContext, server: RunningServer, subject: string): Promise<void> {
  for (const end = Date.now() + 30_000; Date.now() < end; ) {
    if ((await subjectShown(t, server)) === subject) break;
  }
  for (let times = 0; times < 10; times++) assert.equal(await subjectShown(t, server), subject);
}

/** The lines of the log at level 1. */
function complaints(server: RunningServer): string[] {
  return server
    .stderr()
    .split('\n')
    .filter((line) => /: (?:warning|fatal): /.test(line));
}

describe('a renewed certificate', { concurrency: 4, timeout: 90_000 }, () => {
  for (const workers of ['1', '2']) {
    const options = ['--workers', workers, '-v2'];
    const with_ = `with ${workers} worker(s)`;

    it(`is in use after SIGHUP, and sessions continue, ${with_}`, async (t) => {
      const { server, install } = await open(t, options);
      const secure = await startTls(t, server);
      const silent = await connectSmtp(server.port);
      t.after(silent.destroy);
      await silent.reply();
      assert.equal(secure.tls().getPeerX509Certificate()?.subject, OLD);
      install(renewed);
      server.signal('SIGHUP');
      await server.logs(/event=secrets text="loaded new keys and certificates"/);
      await assertShown(t, server, NEW);
      // One that was still in cleartext is shown the new certificate.
      await silent.startTls();
      assert.equal(silent.tls().getPeerX509Certificate()?.subject, NEW);
      for (const client of [secure, silent]) {
        assert.match(await client.ask('MAIL FROM:<a@b>'), /^250 /);
        assert.match(await client.ask('QUIT'), /^221 /);
      }
      assert.deepEqual(complaints(server), []);
    });

    it(`is loaded without a signal after it has changed on disk, ${with_}`, async (t) => {
      const { server, install } = await open(t, options);
      const secure = await startTls(t, server);
      install(renewed);
      await assertShownSoon(t, server);
      assert.match(await secure.ask('NOOP'), /^250 /);
      assert.deepEqual(complaints(server), []);
    });

    it(`is rejected when invalid, with one line, and the previous one is kept, ${with_}`, async (t) => {
      const { server, files, install } = await open(t, options);
      for (const [spoil, complaint] of [
        [() => copyFileSync(renewed.certFile, files.certFile), /KEYFILE \S+ is not the key of CERTFILE /],
        [() => writeFileSync(files.certFile, 'nonsense'), /CERTFILE \S+ contains no readable certificate/],
        [() => rmSync(files.certFile), /unable to read CERTFILE \S+: ENOENT/],
        // A FIFO without a writer.
        [() => execFileSync('mkfifo', [files.certFile]), /unable to read CERTFILE \S+: not a regular file/],
      ] as const) {
        const before = complaints(server).length;
        spoil();
        server.signal('SIGHUP');
        await until('it complains', () => complaints(server).length > before);
        assert.match(complaints(server).at(-1) ?? '', complaint);
        assert.match(complaints(server).at(-1) ?? '', /; keeping the previous keys and certificates"$/);
        assert.equal(await subjectShown(t, server), OLD);
        assert.equal(complaints(server).length, before + 1);
      }
      // A worker that is started now must not fail for lack of files.
      rmSync(files.certFile);
      install(renewed);
      server.signal('SIGHUP');
      await assertShown(t, server, NEW);
      assert.equal(complaints(server).length, 4);
    });
  }

  it('causes one warning when it is invalid on disk, however often it is checked', async (t) => {
    const { server, files, install } = await open(t, ['-v2']);
    writeFileSync(files.keyFile, 'nonsense');
    await until('it complains', () => complaints(server).length > 0, 30_000);
    assert.equal(await subjectShown(t, server), OLD);
    install(renewed);
    await assertShownSoon(t, server);
    assert.equal(complaints(server).length, 1);
  });

  it('may be another target of a link, as with certbot', async (t) => {
    const { server, files } = await open(t, ['-v2']);
    for (const [name, target] of [
      [files.certFile, renewed.certFile],
      [files.keyFile, renewed.keyFile],
    ] as const) {
      symlinkSync(target, `${name}.link`);
      renameSync(`${name}.link`, name);
    }
    await assertShownSoon(t, server);
  });

  it('may be unreadable for the user that serves', {
    skip: process.getuid?.() === 0 ? false : 'not root',
  }, async (t) => {
    const { server, files, install } = await open(t, ['--workers', '2', '-u', '65534', '-g', '65534', '-v2']);
    assert.equal(statSync(files.keyFile).mode & 0o77, 0);
    const [worker = 0] = childrenOf(server.pid);
    assert.equal(statusOf(worker, 'Uid'), '65534 65534 65534 65534');
    install(renewed);
    server.signal('SIGHUP');
    await assertShown(t, server, NEW);
    process.kill(worker, 'SIGKILL');
    await until('another is ready', () => (server.stderr().match(/event=worker-ready/g) ?? []).length === 3);
    await assertShown(t, server, NEW);
  });

  it('is sent to a worker that replaces one that died', async (t) => {
    const { server, install } = await open(t, ['--workers', '2', '-v2']);
    install(renewed);
    server.signal('SIGHUP');
    await assertShown(t, server, NEW);
    const [, first = ''] = /event=worker-ready worker=(\d+)/.exec(server.stderr()) ?? [];
    process.kill(Number(first), 'SIGKILL');
    await until('another is ready', () => (server.stderr().match(/event=worker-ready/g) ?? []).length === 3);
    await assertShown(t, server, NEW);
    install(third);
    server.signal('SIGHUP');
    await assertShown(t, server, 'CN=third.example.org');
  });
});

/** The files are checked every few seconds. */
async function assertShownSoon(t: TestContext, server: RunningServer): Promise<void> {
  await server.logs(/event=secrets text="loaded new keys and certificates"/);
  await assertShown(t, server, NEW);
}
