/** TLS as the server does it: names, kinds of keys, client certificates, tickets, TLS from the first byte. */

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import type { ConnectionOptions } from 'node:tls';
import { makeCertificates, type Pair } from '../support/certificate.ts';
import { childrenOf, until } from '../support/processes.ts';
import { fixture, missing } from '../support/programs.ts';
import { type Outcome, run } from '../support/real.ts';
import { passingSmtpd, type RunningServer, type ServerSetup, startServer } from '../support/server.ts';
import { connectTo, type SmtpClient } from '../support/smtp-client.ts';

const certificates = makeCertificates();
const RSA = ['rsa:2048'];
const pairs = {
  standard: certificates.selfSigned('mail.example.org'),
  rsa: certificates.selfSigned('mail.example.org', RSA),
  other: certificates.selfSigned('other.example.org'),
  otherRsa: certificates.selfSigned('other.example.org', RSA),
  wild: certificates.selfSigned('*.example.net'),
};
const authority = certificates.selfSigned('authority');
const good = certificates.signedBy(authority, 'client.example.org');
const unnamed = certificates.signedBy(authority, '');
const bad = certificates.signedBy(certificates.selfSigned('authority'), 'client.example.org');

const NAMES: NodeJS.ProcessEnv = {
  ...files('', pairs.standard),
  ...files('2', pairs.rsa),
  ...files(':other.example.org', pairs.other),
  ...files('2:other.example.org', pairs.otherRsa),
  ...files(':*.example.net', pairs.wild),
  CAFILE: authority.certFile,
};

after(() => certificates.remove());

function files(suffix: string, { certFile, keyFile }: Pair): NodeJS.ProcessEnv {
  return { [`CERTFILE${suffix}`]: certFile, [`KEYFILE${suffix}`]: keyFile };
}

function shown({ certFile, keyFile }: Pair): ConnectionOptions {
  return { cert: readFileSync(certFile), key: readFileSync(keyFile) };
}

async function listen(
  t: TestContext,
  options: readonly string[] = [],
  { environment = NAMES, ...setup }: ServerSetup & { smtpd?: readonly string[] } = {},
): Promise<RunningServer> {
  const server = await startServer(options, setup.smtpd ?? fixture('smtpd-script'), { environment });
  t.after(server.close);
  return server;
}

/** A session in which a command was answered in TLS. */
async function startTls(
  t: TestContext,
  server: RunningServer,
  options: ConnectionOptions = {},
): Promise<SmtpClient> {
  const client = await connectTo(t, server);
  await client.reply();
  await client.startTls(options);
  assert.match(await client.ask('NOOP'), /^250 /);
  return client;
}

function subjectOf(client: SmtpClient): string | undefined {
  return client.tls().getPeerX509Certificate()?.subject;
}

describe('names and keys', { concurrency: 3, timeout: 60_000 }, () => {
  for (const [level, name, subject] of [
    ['-k0', undefined, 'CN=mail.example.org'],
    ['-k0', 'other.example.org', 'CN=mail.example.org'],
    ['-k1', undefined, 'CN=mail.example.org'],
    ['-k1', 'other.example.org', 'CN=other.example.org'],
    ['-k1', 'OTHER.example.ORG', 'CN=other.example.org'],
    ['-k1', 'mail.example.net', 'CN=*.example.net'],
    ['-k1', 'a.mail.example.net', 'CN=mail.example.org'],
    ['-k1', 'unknown.example.org', 'CN=mail.example.org'],
    ['-k2', 'other.example.org', 'CN=other.example.org'],
  ] as const) {
    it(`${level}: ${subject} is sent to a client that requests ${name ?? 'no name'}`, async (t) => {
      const server = await listen(t, [level]);
      const client = await startTls(t, server, name === undefined ? {} : { servername: name });
      assert.equal(subjectOf(client), subject);
    });
  }

  for (const name of [undefined, 'mail.example.org']) {
    it(`-k2: the handshake fails for a client that requests ${name ?? 'no name'}`, async (t) => {
      const environment = { ...NAMES, CERTFILE: undefined, KEYFILE: undefined };
      const server = await listen(t, ['-k2'], { environment });
      const client = await connectTo(t, server);
      await client.reply();
      await assert.rejects(client.startTls(name === undefined ? {} : { servername: name }));
      await server.logs(
        /warning: event=session id=\S+ remote=\S+ smtpd=\d+ text="unable to start TLS: no certificate for /,
      );
    });
  }

  for (const [algorithm, kind] of [
    ['ECDSA+SHA256', 'ecdsa'],
    ['RSA-PSS+SHA256', 'RSA-PSS'],
  ] as const) {
    for (const name of ['mail.example.org', 'other.example.org']) {
      it(`${name} is sent to a client that supports only ${algorithm}`, {
        skip: missing('openssl'),
      }, async (t) => {
        const server = await listen(t, ['-k1']);
        const connection = ['-starttls', 'smtp', '-connect', `127.0.0.1:${server.port}`, '-servername', name];
        const options = ['-sigalgs', algorithm, '-ign_eof'];
        const { stdout } = await run(['openssl', 's_client', ...connection, ...options], {
          input: 'QUIT\r\n',
        });
        assert.match(stdout, new RegExp(`^Peer signature type: ${kind}$`, 'mi'));
        assert.match(stdout, new RegExp(`^subject=CN = ${name.replaceAll('.', '\\.')}$`, 'm'));
        assert.match(stdout, /^221 /m);
      });
    }
  }
});

describe('client certificates', { concurrency: 3, timeout: 60_000 }, () => {
  for (const [option, what, client, isServed] of [
    ['-Y', 'none', undefined, true],
    ['-Y', 'a good one', good, true],
    ['-Y', 'a bad one', bad, false],
    ['-y', 'none', undefined, false],
    ['-y', 'a good one', good, true],
    ['-y', 'a bad one', bad, false],
  ] as const) {
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      it(`${option} ${isServed ? 'accepts' : 'refuses'} a client with ${what}, in ${maxVersion}`, async (t) => {
        const server = await listen(t, [option, '-f']);
        const options = { maxVersion, ...(client === undefined ? {} : shown(client)) };
        if (!isServed) {
          await assert.rejects(startTls(t, server, options));
          await server.logs(/warning: event=session .*text="unable to start TLS: [^\n]+"\n/);
          return;
        }
        const served = await startTls(t, server, options);
        const environment = JSON.parse((await served.ask('XDO environment')).slice(4));
        const subject = client === undefined ? undefined : 'CN=client.example.org';
        assert.equal(environment.SSL_PEER_CERT_SUBJECT, subject);
      });
    }
  }

  it('may lack a subject', async (t) => {
    const server = await listen(t, ['-y', '-f']);
    const served = await startTls(t, server, shown(unnamed));
    const environment = JSON.parse((await served.ask('XDO environment')).slice(4));
    assert.match(environment.SSL_PEER_CERT_HASH, /^SHA256:[0-9a-f]{64}$/);
    assert.equal(environment.SSL_PEER_CERT_SUBJECT, '');
  });
});

describe('--alpn', { concurrency: 3, timeout: 60_000 }, () => {
  for (const [offered, isServed] of [
    [undefined, true],
    [['smtp'], true],
    [['h2', 'smtp'], true],
    [['h2', 'http/1.1'], false],
  ] as const) {
    it(`${isServed ? 'accepts' : 'refuses'} a client that offers ${offered ?? 'nothing'}`, async (t) => {
      const server = await listen(t, ['--alpn', 'smtp', '--implicit-tls']);
      const client = await connectTo(t, server);
      const shaken = client.shakeHands(offered === undefined ? {} : { ALPNProtocols: [...offered] });
      if (!isServed) return assert.rejects(shaken, /no.application.protocol/i);
      await shaken;
      assert.match(await client.reply(), /^220 /);
      assert.equal(client.tls().alpnProtocol, offered === undefined ? false : 'smtp');
    });
  }
});

describe('a handshake that stalls', { concurrency: 3, timeout: 60_000 }, () => {
  for (const [how, options] of [
    ['after STARTTLS', []],
    ['from the first byte on', ['--implicit-tls']],
    ['from the first byte on, where the name is looked for', ['--implicit-tls', '-k1']],
  ] as const) {
    for (const sent of ['', '160301', '1603010100010000fc0303']) {
      it(`is ended, ${how}, with ${sent.length / 2} octets sent`, async (t) => {
        const server = await listen(t, ['-K', '300', ...options]);
        const client = await connectTo(t, server);
        if (options.length === 0) {
          await client.reply();
          assert.match(await client.ask('STARTTLS'), /^220 /);
        }
        client.send(Buffer.from(sent, 'hex'));
        await client.rest().catch(() => '');
        await server.logs(
          /: warning: event=\S+ id=\S+ remote=\S+ (?:smtpd=\d+ )?text="[^\n]*the handshake took too long"\n/,
        );
        await until('no smtpd is left', () => childrenOf(server.pid).length === 0);
        assert.equal(server.stderr().split('\n').length, 2);
      });
    }
  }
});

describe('--implicit-tls', { concurrency: 3, timeout: 60_000 }, () => {
  it('offers AUTH and no STARTTLS, and sets the TLS variables for smtpd', async (t) => {
    const server = await listen(t, ['--implicit-tls']);
    const client = await connectTo(t, server);
    await client.shakeHands();
    assert.equal(await client.reply(), '220 smtpd-script ready');
    assert.equal(await client.ask('EHLO client'), '250-smtpd-script\n250-8BITMIME\n250 AUTH LOGIN');
    const environment = JSON.parse((await client.ask('XDO environment')).slice(4));
    assert.equal(environment.SSL_PROTOCOL, 'TLSv1.3');
    assert.equal(environment.TCPREMOTEIP, '127.0.0.1');
    assert.equal(environment.CERTFILE, undefined);
  });

  for (const [name, command, pattern] of [
    [
      'swaks',
      (port: number) => ['swaks', '--server', `127.0.0.1:${port}`, '--tlsc', '--quit', 'helo'],
      /<~ {2}250.AUTH LOGIN/,
    ],
    [
      'openssl',
      (port: number) => ['openssl', 's_client', '-quiet', '-connect', `127.0.0.1:${port}`],
      /250.AUTH LOGIN/,
    ],
    ['curl', (port: number) => ['curl', '-svk', `smtps://127.0.0.1:${port}`], /< 250.AUTH LOGIN/],
  ] as const) {
    it(`works with ${name}`, { skip: missing(name) }, async (t) => {
      const server = await listen(t, ['--implicit-tls']);
      const { stdout, stderr }: Outcome = await run(command(server.port), {
        input: 'EHLO client\r\nQUIT\r\n',
      });
      assert.match(`${stdout}${stderr}`, pattern);
      assert.ok(!`${stdout}${stderr}`.includes('STARTTLS'));
    });
  }

  it('replies in TLS when smtpd cannot be started', async (t) => {
    const smtpd = passingSmtpd(t);
    const server = await listen(t, ['--implicit-tls'], { smtpd: [smtpd.path] });
    smtpd.remove();
    const client = await connectTo(t, server);
    await client.shakeHands();
    assert.match(await client.reply(), /^421 4\.3\.0 /);
    assert.equal(await client.rest(), '');
    client.end();
    await server.logs(
      /: warning: event=session id=\S+ remote=\S+ smtpd=none text="cannot run \S+\/smtpd: ENOENT \(no such program: [^\n]+\)"\n/,
    );
  });

  for (const level of ['-k0', '-k1']) {
    it(`starts no smtpd for a cleartext client, and logs one line, with ${level}`, async (t) => {
      const server = await listen(t, ['--implicit-tls', level]);
      const client = await connectTo(t, server);
      client.sendLines('EHLO client', 'MAIL FROM:<a@b>');
      assert.doesNotMatch(await client.rest().catch(() => ''), /^[2-5]\d\d/m);
      await server.logs(/: warning: event=tls-failed id=\S+ remote=\S+ text=\S+\n/);
      assert.deepEqual(childrenOf(server.pid), []);
      assert.equal(server.stderr().split('\n').length, 2);
    });
  }
});

describe('session tickets', { concurrency: 3, timeout: 60_000 }, () => {
  const keys = join(certificates.folder, 'ticket-keys');
  const otherKeys = join(certificates.folder, 'other-ticket-keys');
  writeFileSync(keys, randomBytes(48));
  writeFileSync(otherKeys, `${randomBytes(48).toString('base64')}\n`);

  async function ticketFrom(
    t: TestContext,
    server: RunningServer,
    options: ConnectionOptions,
  ): Promise<Buffer> {
    const client = await connectTo(t, server);
    await client.reply();
    // In TLS 1.2 it arrives in the handshake.
    let settle: (session: Buffer) => void = () => {};
    const session = new Promise<Buffer>((resolve) => {
      settle = resolve;
    });
    await client.startTls(options);
    if (options.maxVersion === 'TLSv1.2') settle(client.tls().getSession() ?? Buffer.alloc(0));
    else client.tls().once('session', settle);
    assert.match(await client.ask('NOOP'), /^250 /);
    return session;
  }

  async function isResumed(
    t: TestContext,
    server: RunningServer,
    session: Buffer,
    options: ConnectionOptions,
  ): Promise<boolean> {
    const client = await startTls(t, server, { ...options, session });
    return client.tls().isSessionReused();
  }

  for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
    const options = { maxVersion, servername: 'other.example.org' };
    for (const level of ['-k0', '-k1']) {
      it(`${maxVersion}, ${level}: a session is resumed by the same server, and by each of its workers`, async (t) => {
        const server = await listen(t, ['--workers', '2', '-v2', level]);
        const session = await ticketFrom(t, server, options);
        // The kernel chooses the worker that accepts a connection.
        for (const workers = new Set<string>(); workers.size < 2; ) {
          assert.equal(await isResumed(t, server, session, options), true);
          for (const [, pid = ''] of server.stderr().matchAll(/event=tls id=(\d+)-.* resumed=yes/g))
            workers.add(pid);
        }
      });
    }

    it(`${maxVersion}: a session is resumed by another server with the same keys, and by no other`, async (t) => {
      const [one, same, other, random] = await Promise.all([
        listen(t, ['--ticket-keys', keys]),
        listen(t, ['--ticket-keys', keys, '--workers', '2']),
        listen(t, ['--ticket-keys', otherKeys]),
        listen(t),
      ]);
      const session = await ticketFrom(t, one, options);
      assert.equal(await isResumed(t, one, session, options), true);
      assert.equal(await isResumed(t, same, session, options), true);
      assert.equal(await isResumed(t, other, session, options), false);
      assert.equal(await isResumed(t, random, session, options), false);
    });

    it(`${maxVersion}: a session without a client certificate does not pass where one is required`, async (t) => {
      const open = await listen(t, ['--ticket-keys', keys]);
      const strict = await listen(t, ['--ticket-keys', keys, '-y']);
      const session = await ticketFrom(t, open, options);
      await assert.rejects(isResumed(t, strict, session, options));
    });

    it(`${maxVersion}: a session with a certificate is not resumed, and the certificate is verified again`, async (t) => {
      const server = await listen(t, ['--ticket-keys', keys, '-y', '-f']);
      const withCertificate = { ...options, ...shown(good) };
      const session = await ticketFrom(t, server, withCertificate);
      const client = await startTls(t, server, { ...withCertificate, session });
      assert.equal(client.tls().isSessionReused(), false);
      const environment = JSON.parse((await client.ask('XDO environment')).slice(4));
      assert.equal(environment.SSL_PEER_CERT_SUBJECT, 'CN=client.example.org');
      const bare = await startTls(t, server, { ...options, session }).catch(() => undefined);
      // In TLS 1.3 a client learns of the refusal afterwards.
      await assert.rejects(async () => bare?.ask('NOOP') ?? Promise.reject(new Error('refused')));
    });

    for (const workers of ['1', '2']) {
      it(`${maxVersion}: changed keys are in use after SIGHUP, with ${workers} worker(s)`, async (t) => {
        const file = join(certificates.folder, `keys-${maxVersion}-${workers}`);
        const lines = [48, 48].map((octets) => `${randomBytes(octets).toString('base64')}\n`);
        writeFileSync(file, lines[0] ?? '');
        const server = await listen(t, ['--ticket-keys', file, '--workers', workers, '-v2']);
        const session = await ticketFrom(t, server, options);
        writeFileSync(file, lines[1] ?? '');
        server.signal('SIGHUP');
        await server.logs(/event=secrets text="loaded new keys and certificates"/);
        // The workers receive it a moment later.
        let resumed = true;
        for (let tries = 0; resumed && tries < 50; tries++)
          resumed = await isResumed(t, server, session, options);
        assert.equal(resumed, false);
        writeFileSync(file, 'no keys');
        server.signal('SIGHUP');
        await server.logs(
          /: warning: event=secrets text="[^\n]*ticket key file[^\n]*; keeping the previous keys and certificates"\n/,
        );
        const next = await ticketFrom(t, server, options);
        assert.equal(await isResumed(t, server, next, options), true);
      });
    }
  }
});
