/** smtp-relay-io, and the server with --to URL, between third-party mail clients and mail servers. */

import assert from 'node:assert/strict';
import { chmodSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { assertInMailbox, eximServerIn } from '../support/exim.ts';
import { until } from '../support/processes.ts';
import { missing, ours } from '../support/programs.ts';
import { run, tcpserver } from '../support/real.ts';
import { assertContent, type MailServer, makeFolder, SERVER_NAME } from '../support/real-chain.ts';
import { CLIENTS } from '../support/real-clients.ts';
import { startServer } from '../support/server.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const pair = certificates.signedBy(authority, 'localhost');

/** The relay under tcpserver, as the mail server of the clients. */
async function startRelay(t: TestContext, folder: string, ...words: string[]): Promise<MailServer> {
  const server = await tcpserver(t, [ours('smtp-relay-io'), '-v', '2', ...words], {
    CAFILE: authority.certFile,
  });
  return { ...server, pair, folder };
}

/** Our server, with a Maildir in the folder. @returns its port. */
async function startMaildir(t: TestContext, folder: string, ...options: string[]): Promise<number> {
  const environment = { CERTFILE: pair.certFile, KEYFILE: pair.keyFile };
  const maildir = [ours('smtpd-maildir'), join(folder, 'Maildir')];
  const server = await startServer(['--fresh', ...options], maildir, { environment });
  t.after(server.close);
  return server.port;
}

function mailIn(folder: string): string {
  const [name = '', ...others] = readdirSync(join(folder, 'Maildir/new'));
  assert.deepEqual(others, []);
  return readFileSync(join(folder, 'Maildir/new', name), 'latin1');
}

describe('smtp-relay-io', { concurrency: 2, timeout: 120_000 }, () => {
  for (const { name, programs, plain } of CLIENTS) {
    if (plain === undefined) continue;
    const skip = missing('tcpserver', ...programs);
    for (const [scheme, options] of [
      ['tls', ['--require-tls']],
      ['smtps', ['--implicit-tls']],
    ] as const) {
      it(`passes a message of ${name} on to our server by ${scheme}://`, { skip }, async (t) => {
        const folder = makeFolder(t);
        const port = await startMaildir(t, folder, ...options);
        const relay = await startRelay(t, folder, `${scheme}://localhost:${port}`);
        const { status, stderr } = await plain(relay);
        assert.equal(status, 0, `${stderr}${relay.stderr()}`);
        const mail = mailIn(folder);
        assertContent(mail);
        assert.match(mail, /ESMTPS \(TLSv1\.3 /);
        assert.match(relay.stderr(), /info: TLS with localhost:\d+: TLSv1\.3 TLS_\w+, verified$/m);
      });
    }

    it(`passes no message of ${name} on to a server of another name, and gives the reason`, {
      skip,
    }, async (t) => {
      const folder = makeFolder(t);
      const port = await startMaildir(t, folder);
      const relay = await startRelay(t, folder, `tls://127.0.0.1:${port}`);
      const { status, stdout, stderr } = await plain(relay);
      assert.notEqual(status, 0);
      // smtplib and curl do not repeat a reply to EHLO.
      if (name === 'swaks' || name === 'msmtp')
        assert.match(`${stdout}${stderr}`, /451.*127\.0\.0\.1:\d+: the server is not verified/);
      assert.match(
        relay.stderr(),
        /warning: unable to relay to 127\.0\.0\.1:\d+: the server is not verified: /,
      );
    });
  }

  const [swaks] = CLIENTS;
  const withExim =
    process.getuid?.() === 0
      ? missing('tcpserver', 'exim4', 'swaks')
      : 'exim takes another configuration from root alone';
  for (const mechanism of ['PLAIN', 'LOGIN', 'CRAM-MD5'] as const) {
    it(`authenticates to exim by ${mechanism}`, {
      skip: withExim,
    }, async (t) => {
      const folder = makeFolder(t);
      const exim = await tcpserver(t, eximServerIn(folder, pair, mechanism));
      const credentials = join(folder, 'credentials');
      writeFileSync(credentials, 'localhost alice wonder land\n');
      chmodSync(credentials, 0o600);
      const url = `tls://localhost:${exim.port}`;
      const relay = await startRelay(t, folder, '--credentials', credentials, url);
      const sent = await swaks?.plain?.(relay);
      assert.equal(sent?.status, 0, `${sent?.stdout}${sent?.stderr}${relay.stderr()}${exim.stderr()}`);
      await assertInMailbox(folder);
      assert.match(readFileSync(join(folder, 'mailbox'), 'latin1'), /with esmtpsa/i);

      writeFileSync(credentials, 'localhost alice looking glass\n');
      const refused = await swaks?.plain?.(relay);
      assert.notEqual(refused?.status, 0);
      assert.match(refused?.stdout ?? '', /<\*\* 451 4\.7\.8 localhost:\d+: it refused our credentials/);
      await until('the reply is on stderr', () => /credentials: 535 /.test(relay.stderr()));
    });
  }

  it('is an smtpd behind our server', { skip: missing('swaks') }, async (t) => {
    const folder = makeFolder(t);
    const port = await startMaildir(t, folder, '--require-tls');
    const environment = { CERTFILE: pair.certFile, KEYFILE: pair.keyFile };
    const command = ['env', `CAFILE=${authority.certFile}`, ours('smtp-relay-io'), `tls://localhost:${port}`];
    const front = await startServer(['--require-tls'], command, { environment });
    t.after(front.close);
    const words = [
      '--server',
      `127.0.0.1:${front.port}`,
      '--tls',
      '--from',
      'a@example.org',
      '--to',
      'b@example.org',
    ];
    const { status, stdout } = await run(['swaks', ...words, '--body', 'Hi.']);
    assert.equal(status, 0, `${stdout}${front.stderr()}`);
    assert.match(mailIn(folder), /ESMTPS \(TLSv1\.3 /);
  });
});

describe('smtpd-starttls-server with --to URL', { concurrency: 2, timeout: 120_000 }, () => {
  const ownPair = certificates.selfSigned(SERVER_NAME);

  for (const { name, programs, plain, secure } of CLIENTS) {
    const skip = missing(...programs);
    for (const [how, send, option] of [
      ['without TLS', plain, '--no-starttls'],
      ['in TLS', secure, '--require-tls'],
      ['in TLS, on demand,', secure, '--on-demand'],
    ] as const) {
      if (send === undefined) continue;
      it(`passes a message of ${name} ${how} on to our server`, { skip }, async (t) => {
        const folder = makeFolder(t);
        const port = await startMaildir(t, folder, '--require-tls');
        const environment = {
          CERTFILE: ownPair.certFile,
          KEYFILE: ownPair.keyFile,
          RELAY_CAFILE: authority.certFile,
        };
        const server = await startServer([option, '--to', `tls://localhost:${port}`], [], { environment });
        t.after(server.close);
        const { status, stderr } = await send({ ...server, pair: ownPair, folder });
        assert.equal(status, 0, `${stderr}${server.stderr()}`);
        const mail = mailIn(folder);
        assertContent(mail);
        assert.match(mail, /ESMTPS \(TLSv1\.3 /);
      });
    }
  }
});
