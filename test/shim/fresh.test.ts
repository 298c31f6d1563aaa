/** --fresh: a second smtpd with the TLS session in its environment. */

import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { unreadOctets } from '../support/kernel.ts';
import { isGone, until } from '../support/processes.ts';
import { fixture } from '../support/programs.ts';
import { assertOneLine, certificate, runShim, SERVER_NAMES, type ShimRun } from '../support/shim.ts';

const FRESH = ['--fresh'];

for (const server of SERVER_NAMES) {
  describe(`--fresh under ${server}`, { concurrency: 4 }, () => {
    it('a new smtpd serves the client in TLS, its greeting is not forwarded, and the first has exited', async (t) => {
      const { client, ...run } = await runShim(t, { server, options: FRESH });
      await client.reply();
      await client.ask('EHLO client');
      const first = await run.smtpd();
      await client.startTls();
      assert.match(await client.ask('EHLO client'), /^250-smtpd-script\n/);
      await run.smtpd(first);
      await until('the first smtpd is gone', () => isGone(first));
      client.sendLines('QUIT');
      assert.equal(await client.rest(), '221 2.0.0 Bye\r\n');
      client.end();
      assert.equal(await run.status(), 0);
      await run.allGone();
      assert.equal(run.served.stderr(), '');
    });

    it('it gets the session in variables named as in mod_ssl', async (t) => {
      const { certFile } = certificate();
      const { client } = await runShim(t, {
        server,
        options: FRESH,
        environment: { CAFILE: certFile, SSL_PROTOCOL: undefined },
      });
      await client.reply();
      const before = JSON.parse((await client.ask('XDO environment')).slice(4));
      assert.equal(before.SSL_PROTOCOL, undefined);
      await client.startTls({ servername: 'mail.example.org' });
      const environment = JSON.parse((await client.ask('XDO environment')).slice(4));
      assert.equal(environment.SSL_PROTOCOL, 'TLSv1.3');
      assert.equal(environment.SSL_CIPHER, client.tls().getCipher().name);
      assert.equal(environment.SSL_TLS_SNI, 'mail.example.org');
      assert.equal(environment.SSLCTLFD, undefined);
      assert.equal(environment.PROTO, 'TCP');
    });
  });
}

it('input that arrives before the second smtpd’s greeting waits for it, with one descriptor for everything', async (t) => {
  const { client, ...run } = await runShim(t, {
    server: 'a server with one descriptor',
    options: FRESH,
    smtpd: ['--start-in-tls=await-signal; line 220 late'],
  });
  await client.reply();
  const first = await run.smtpd();
  await client.startTls();
  client.sendLines('NOOP');
  await run.smtpd(first);
  await until('the TLS server has read it', () => unreadOctets(run.port, run.clientPort) === 0);
  await run.release();
  assert.equal(await client.reply(), '250 2.0.0 Ok');
});

describe('the environment of the second smtpd', { concurrency: 4 }, () => {
  it('describes the client’s certificate in the variables of s6 and of mod_ssl', async (t) => {
    const { client } = await freshWithCertificate(t, 's6-ucspitlsd');
    const environment = JSON.parse((await client.ask('XDO environment')).slice(4));
    assert.equal(environment.SSL_PEER_CERT_SUBJECT, 'CN=mail.example.org');
    assert.equal(environment.SSL_CLIENT_S_DN, 'CN=mail.example.org');
    assert.match(environment.SSL_PEER_CERT_HASH, /^SHA256:[0-9A-F]{64}$/);
  });

  it('contains what sslserver reports of its own certificate', async (t) => {
    const { client } = await freshWithCertificate(t, 'sslserver');
    const environment = JSON.parse((await client.ask('XDO environment')).slice(4));
    assert.equal(environment.SSL_SERVER_S_DN_CN, 'mail.example.org');
    assert.equal(environment.SSL_CLIENT_S_DN, 'CN=mail.example.org');
  });

  it('lacks variables that the answer names without a value, even if they were set before', async (t) => {
    const { client } = await runShim(t, {
      options: FRESH,
      environment: {
        SSL_TLS_SNI_SERVERNAME: 'junk',
        SSL_TLS_SNI: 'junk',
        SSL_PEER_CERT_SUBJECT: 'CN=admin',
        SSL_CLIENT_S_DN: 'CN=admin',
        SSL_PEER_CERT_HASH: 'junk',
      },
    });
    await client.reply();
    await client.startTls();
    const environment = JSON.parse((await client.ask('XDO environment')).slice(4));
    const names = Object.keys(environment).filter((name) => /^SSL_(?!CERT_)/.test(name));
    assert.deepEqual(names.sort(), ['SSL_CIPHER', 'SSL_PROTOCOL']);
  });
});

describe('a second smtpd', { concurrency: 4 }, () => {
  it('with a multiline greeting: no line of it is forwarded', async (t) => {
    const { client } = await runShim(t, {
      options: FRESH,
      smtpd: ['--start-in-tls=line 220-one; line 220-two; line 220 three'],
    });
    await client.reply();
    await client.startTls();
    assert.equal(await client.ask('NOOP'), '250 2.0.0 Ok');
  });

  it('that refuses service: its refusal is forwarded', async (t) => {
    const { client, ...run } = await runShim(t, {
      options: FRESH,
      smtpd: ['--start-in-tls=line 554-No; line 554 Not in TLS; await-end; exit 0'],
    });
    await client.reply();
    await client.startTls();
    assert.equal(await client.reply(), '554-No\n554 Not in TLS');
    client.end();
    assert.equal(await run.status(), 0);
  });

  for (const [what, actions, status, why] of [
    ['exits before its greeting', 'exit 5', 5, 'exit status 5'],
    ['is killed', 'die SIGKILL', 137, 'killed by SIGKILL'],
    ['closes its output', 'close-output; await-end; exit 0', 0, 'it closed its output'],
    ['sends an invalid greeting', 'line hello; await-end; exit 6', 6, 'invalid SMTP reply'],
    ['sends nothing', 'await-end; exit 7', 7, 'idle timeout'],
    ['sends an endless greeting', 'flood 100000; await-end; exit 8', 8, 'SMTP reply too long'],
  ] as const) {
    it(`that ${what}: 421 in TLS and one line on stderr`, async (t) => {
      const { client, ...run } = await runShim(t, {
        options: [...FRESH, '-t', '3'],
        smtpd: [`--start-in-tls=${actions}`],
      });
      await client.reply();
      await Promise.all([run.shim(), run.smtpd()]);
      await client.startTls();
      assert.match(await client.rest(), /^421 4\.3\.0 [^\n]*\n$/);
      client.end();
      assert.equal(await run.status(), status);
      await run.allGone();
      assertOneLine(
        run.served.stderr(),
        new RegExp(`warning: unable to read the greeting of the second smtpd: ${why}$`, 'm'),
      );
    });
  }

  it('that can no longer be run: 421 in TLS, one line on stderr, exit status 127', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'fresh-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const node = join(folder, 'node');
    symlinkSync(process.execPath, node);
    const { client, ...run } = await runShim(t, {
      options: FRESH,
      command: [node, ...fixture('smtpd-script').slice(1)],
    });
    await client.reply();
    await Promise.all([run.shim(), run.smtpd()]);
    unlinkSync(node);
    await client.startTls();
    assert.match(await client.rest(), /^421 4\.3\.0 [^\n]*\n$/);
    client.end();
    assert.equal(await run.status(), 127);
    await run.allGone();
    assert.equal(
      run.served.stderr(),
      `smtpd-starttls-proxy-io: fatal: cannot run ${node}: ENOENT (no such program: check its path, PATH, and the interpreter in its first line)\n`,
    );
  });

  it('is used though the first one does not exit by itself and is killed', async (t) => {
    const { client, ...run } = await runShim(t, {
      options: FRESH,
      smtpd: ['--end=await-nothing', '--signal=SIGTERM:'],
    });
    await client.reply();
    const first = await run.smtpd();
    await client.startTls();
    assert.equal(await client.ask('NOOP'), '250 2.0.0 Ok');
    assert.ok(!isGone(first));
    client.sendLines('QUIT');
    assert.equal(await client.rest(), '221 2.0.0 Bye\r\n');
    client.end();
    assert.equal(await run.status(), 0);
    assert.ok(isGone(first));
  });
});

async function freshWithCertificate(t: TestContext, server: string): Promise<ShimRun> {
  const { certFile, keyFile } = certificate();
  const run = await runShim(t, { server, options: FRESH, environment: { CAFILE: certFile } });
  await run.client.reply();
  await run.client.startTls({ cert: readFileSync(certFile), key: readFileSync(keyFile) });
  return run;
}
