/** What the client of smtp-relay-io gets when the server cannot be had. */

import assert from 'node:assert/strict';
import { after, describe, it } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { type FarServerOptions, startFarServer } from '../support/far-server.ts';
import { until } from '../support/processes.ts';
import { missing } from '../support/programs.ts';
import { quit, sendMessage, startBoth, startRelay } from '../support/relay.ts';
import { silentPort } from '../support/tcp.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const pair = certificates.signedBy(authority, 'localhost');
const TRUST = { CAFILE: authority.certFile };

describe('a server that cannot be had', () => {
  const REFUSALS: readonly [string, FarServerOptions, RegExp][] = [
    [
      'refuses service for good',
      { replies: { greeting: '554 5.7.1 go away' } },
      /^554 5\.7\.1 localhost:\d+: it refused service: 554 5\.7\.1 go away$/,
    ],
    [
      'refuses service for now',
      { replies: { greeting: '421 busy' } },
      /^451 4\.0\.0 localhost:\d+: it refused service: 421 busy$/,
    ],
    [
      'refuses the name of the client',
      { replies: { EHLO: '550 who?', HELO: '550 bad name' } },
      /^550 5\.0\.0 localhost:\d+: it refused service: 550 bad name$/,
    ],
    [
      'sends no SMTP',
      { replies: { greeting: 'SSH-2.0-OpenSSH' } },
      /^451 4\.4\.2 localhost:\d+: invalid SMTP reply$/,
    ],
    [
      'sends control characters',
      { replies: { greeting: '554 a\x1b[1m\xe9' } },
      /^554 5\.0\.0 localhost:\d+: it refused service: 554 a\?\[1m\?$/,
    ],
    [
      'sends a long refusal',
      { replies: { greeting: `554 ${'x'.repeat(3000)}` } },
      /^554 5\.0\.0 localhost:\d+: it refused service: 554 x{300,450}$/,
    ],
  ];
  it('because it does not answer, is a 451 after the connect timeout', {
    skip: missing('perl'),
  }, async (t) => {
    const port = await silentPort(t);
    const relay = startRelay(t, ['--connect-timeout', '1', `smtp://127.0.0.1:${port}`]);
    await relay.reply();
    assert.equal(
      await relay.ask('EHLO client.example'),
      `451 4.4.1 127.0.0.1:${port}: cannot connect: timed out`,
    );
    await quit(relay);
    assert.equal(await relay.status, 111);
  });

  for (const [what, options, reply] of REFUSALS) {
    it(`because it ${what}, is the reply to all commands that need it; the session goes on`, async (t) => {
      const { server, relay } = await startBoth(t, options);
      const refusal = await relay.ask('EHLO client.example');
      assert.match(refusal, reply);
      assert.equal(await relay.ask('HELO client.example'), refusal);
      assert.equal(await relay.ask('MAIL FROM:<a@b>'), refusal);
      assert.equal(await relay.ask('RCPT TO:<c@d>'), '503 5.5.1 Send MAIL first');
      assert.equal(await relay.ask('NOOP'), '250 2.0.0 OK');
      await quit(relay);
      assert.equal(await relay.status, 111);
      assert.equal(server.connections.length, 1);
      assert.match(relay.stderr(), /^smtp-relay-io: warning: unable to relay to localhost:\d+: [ -~]+\n$/);
    });
  }

  it('because it refuses service for good before it is verified, is a temporary failure where it must be', async (t) => {
    const server = await startFarServer(t, { replies: { greeting: '554 5.7.1 go away' } });
    const url = `//localhost:${server.port}`;
    const believed = await sendMessage(startRelay(t, [`smtp+tls:${url}`], TRUST));
    assert.match(believed ?? '', /^554 5\.7\.1 /);
    const unbelieved = await sendMessage(startRelay(t, [`tls:${url}`], TRUST));
    assert.match(unbelieved ?? '', /^451 4\.7\.1 /);
    const verified = await startFarServer(t, {
      pair,
      implicit: true,
      replies: { greeting: '554 5.7.1 go away' },
    });
    const refusal = await sendMessage(startRelay(t, [`smtps://localhost:${verified.port}`], TRUST));
    assert.match(refusal ?? '', /^554 5\.7\.1 /);
  });

  it('because it refuses service in a long reply, is logged in a line of limited length', async (t) => {
    const line = `554-${'\xff'.repeat(10_000)}\r\n`;
    const { relay } = await startBoth(t, { replies: { greeting: `${line.repeat(6)}554 go away` } });
    assert.match(await relay.ask('EHLO client.example'), /^554 /);
    await quit(relay);
    await relay.status;
    assert.ok(relay.stderr().length < 5000, `${relay.stderr().length} octets`);
  });

  it('because the connection is lost, is a temporary failure', async (t) => {
    const { server, relay } = await startBoth(t, { replies: { EHLO: '250-half a reply' } });
    relay.send('EHLO client.example');
    await until(
      'the server has got EHLO',
      () => server.connections[0]?.cleartext.startsWith('EHLO') === true,
    );
    server.connections[0]?.socket.resetAndDestroy();
    // Node reports a reset that arrives with data as the end of the connection.
    assert.match(
      await relay.reply(),
      /^451 4\.4\.2 localhost:\d+: (?:the connection was lost: ECONNRESET|it closed the connection)$/,
    );
  });

  it('because it does not listen, is a temporary failure', async (t) => {
    const server = await startFarServer(t, {}, { host: '127.0.0.1', port: 0 });
    const relay = startRelay(t, [`smtp://127.0.0.2:${server.port}`]);
    assert.equal(
      await sendMessage(relay),
      `451 4.4.1 127.0.0.2:${server.port}: cannot connect: ECONNREFUSED`,
    );
  });

  it('because it sends nothing, is a temporary failure', async (t) => {
    const server = await startFarServer(t, { implicit: true, pair });
    const relay = startRelay(t, ['-t', '1', `smtp://127.0.0.1:${server.port}`]);
    assert.equal(await sendMessage(relay), `451 4.4.2 127.0.0.1:${server.port}: no reply in time`);
  });

  it('because it closes the connection, is a temporary failure', async (t) => {
    const server = await startFarServer(t, { implicit: true, breaksHandshake: true });
    const relay = startRelay(t, ['-t', '60', `smtps://localhost:${server.port}`], TRUST);
    assert.match((await sendMessage(relay)) ?? '', /^451 4\.7\.5 localhost:\d+: TLS handshake failed: /);
  });
});
