/** A server without TLS, for clients on the same host (--no-starttls). */

import assert from 'node:assert/strict';
import { after, describe, it, type TestContext } from 'node:test';
import { makeBackend } from '../support/backend.ts';
import { makeCertificates } from '../support/certificate.ts';
import { startFarServer } from '../support/far-server.ts';
import { fixture } from '../support/programs.ts';
import { sendMessage } from '../support/relay.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { connectTo } from '../support/smtp-client.ts';
import { listenTcp } from '../support/tcp.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const pair = certificates.signedBy(authority, 'localhost');

const SMTPD = fixture('smtpd-script');
const NO_CERTIFICATE = { CERTFILE: undefined, KEYFILE: undefined, RELAY_CAFILE: authority.certFile };

/** A server that has no certificate. */
async function start(
  t: TestContext,
  options: readonly string[],
  smtpd: readonly string[] = [],
): Promise<RunningServer> {
  const words = ['--no-starttls', '-v', '2', '-l', 'relay.example', ...options];
  const server = await startServer(words, smtpd, { environment: NO_CERTIFICATE });
  t.after(server.close);
  return server;
}

describe('--no-starttls', { concurrency: 3, timeout: 60_000 }, () => {
  for (const option of ['', '--on-demand']) {
    it(`passes all on to a program, AUTH too ${option}`, async (t) => {
      const server = await start(t, option === '' ? [] : [option], SMTPD);
      const client = await connectTo(t, server);
      assert.equal(await client.reply(), '220 smtpd-script ready');
      assert.equal(await client.ask('EHLO me'), '250-smtpd-script\n250-8BITMIME\n250 AUTH LOGIN');
      assert.equal(await client.ask('AUTH LOGIN'), await replyOf(t, 'AUTH LOGIN'));
      const environment = JSON.parse((await client.ask('XDO environment')).slice(4));
      assert.equal(environment.TCPREMOTEIP, '127.0.0.1');
      assert.equal(environment.SSL_PROTOCOL, undefined);
      assert.equal(environment.RELAY_CAFILE, undefined);
      assert.match(await client.ask('QUIT'), /^221 /);
      client.end();
      await server.logs(/event=end .* verdict=plaintext smtpd=\d+ status=0 /);
    });
  }

  it('refuses STARTTLS on demand', async (t) => {
    const client = await connectTo(t, await start(t, ['--on-demand'], SMTPD));
    await client.reply();
    assert.match(await client.ask('STARTTLS'), /^503 5\.5\.1 /);
  });

  for (const options of [['--received', 'mx.example'], ['--strict-newlines']]) {
    it(`refuses STARTTLS of smtpd with ${options[0]}, which could not read what follows`, async (t) => {
      const client = await connectTo(
        t,
        await start(t, options, fixture('smtpd-script', '--on=STARTTLS:line 220 go')),
      );
      await client.reply();
      assert.match(await client.ask('STARTTLS'), /^503 5\.5\.1 /);
    });
  }

  it('passes all on to the server of HOST:PORT', async (t) => {
    const backend = makeBackend();
    const server = await start(t, ['--to', `127.0.0.1:${await listenTcp(t, backend.serve)}`]);
    const client = await connectTo(t, server);
    assert.equal(await client.reply(), '220 backend');
    assert.equal(await client.ask('STARTTLS'), '250 ok');
    assert.equal(backend.connections[0]?.received.toString(), 'STARTTLS\r\n');
  });

  for (const option of ['', '--on-demand']) {
    it(`passes mail on to the server of a URL, and hides its AUTH ${option}`, async (t) => {
      const far = await startFarServer(t, { pair });
      const options = ['--to', `tls://localhost:${far.port}`, ...(option === '' ? [] : [option])];
      const server = await start(t, options);
      const client = await connectTo(t, server);
      assert.equal(await client.reply(), '220 relay.example ESMTP');
      assert.equal(await client.ask('EHLO me'), '250-far.example\n250 PIPELINING');
      assert.equal(await client.ask('AUTH PLAIN AAAA'), '502 5.5.1 AUTH not available here');
      assert.match(await client.ask('STARTTLS'), /^503 5\.5\.1 /);
      const other = await connectTo(t, server);
      assert.equal(await sendMessage(other), undefined);
      assert.equal(far.connections.at(-1)?.delivered, 'in TLS');
      await server.logs(/event=end .* verdict=plaintext smtpd=tls:\/\/localhost:\d+ status=0 /);
    });
  }

  it('works with workers', async (t) => {
    const far = await startFarServer(t, { pair });
    const server = await start(t, ['--workers', '2', '--to', `tls://localhost:${far.port}`]);
    for (let count = 0; count < 4; count++) {
      assert.equal(await sendMessage(await connectTo(t, server)), undefined);
    }
    assert.ok(far.connections.every(({ delivered }) => delivered === 'in TLS'));
    server.signal('SIGHUP');
    server.signal('SIGTERM');
    assert.equal((await server.ended).code, 0);
  });

  it('delays the greeting', async (t) => {
    const server = await start(t, ['--greet-delay', '300'], SMTPD);
    const client = await connectTo(t, server);
    client.sendLines('EHLO me');
    assert.match(await client.reply(), /^554 5\.5\.1 /);
  });
});

/** What the program itself replies to a command, in TLS. */
async function replyOf(t: TestContext, command: string): Promise<string> {
  const server = await startServer([], SMTPD);
  t.after(server.close);
  const client = await connectTo(t, server);
  await client.reply();
  await client.startTls();
  return client.ask(command);
}
