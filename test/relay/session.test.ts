/** A session of smtp-relay-io: what the client is answered, what the server receives, and how it ends. */

import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { type FarServerOptions, startFarServer } from '../support/far-server.ts';
import { sha256OfKey } from '../support/pin.ts';
import { until } from '../support/processes.ts';
import { quit, type Relay, sendMessage, startRelay } from '../support/relay.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const pair = certificates.signedBy(authority, 'localhost');
const TRUST = { CAFILE: authority.certFile };

function credentialsFile(t: TestContext, text: string, mode = 0o600): string {
  const folder = mkdtempSync(join(tmpdir(), 'credentials-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'file');
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

/** Starts a server and a relay to it, and reads the greeting. */
async function start(t: TestContext, options: FarServerOptions, ...words: string[]) {
  const server = await startFarServer(t, options);
  const relay = startRelay(t, ['-l', 'relay.example', ...words, `smtp://localhost:${server.port}`]);
  const greeting = await relay.reply();
  return {
    server,
    relay,
    greeting,
    received: () => server.connections.map(({ cleartext }) => cleartext).join('|'),
  };
}

describe('a session', () => {
  it('begins with a greeting of its own, and connects to no server before that is needed', async (t) => {
    const { server, relay, greeting } = await start(t, {});
    assert.equal(greeting, '220 relay.example ESMTP');
    assert.equal(await relay.ask('NOOP'), '250 2.0.0 OK');
    assert.equal(await relay.ask('RSET'), '250 2.0.0 OK');
    await quit(relay);
    assert.equal(await relay.status, 0);
    assert.equal(server.connections.length, 0);
  });

  it('offers what the server offers, less STARTTLS and AUTH, and uses the name of the client', async (t) => {
    const offers = ['SIZE 1000', 'AUTH PLAIN', 'AUTH=LOGIN', '8BITMIME'];
    const { relay, received } = await start(t, { pair, offers });
    const reply = '250-far.example\n250-SIZE 1000\n250 8BITMIME';
    assert.equal(await relay.ask('EHLO client.example'), reply);
    assert.equal(await relay.ask('HELO client.example'), '250 far.example');
    assert.equal(await relay.ask('ehlo client.example'), reply);
    assert.equal(await relay.ask('STARTTLS'), '503 5.5.1 STARTTLS not available here');
    assert.equal(await relay.ask('AUTH PLAIN AAAA'), '502 5.5.1 AUTH not available here');
    await quit(relay);
    assert.equal(await relay.status, 0);
    assert.equal(received(), 'EHLO client.example\r\nQUIT\r\n');
  });

  it('uses the name of this host for a client without one', async (t) => {
    const { relay, received } = await start(t, {});
    assert.equal(await relay.ask('VRFY someone'), '250 ok');
    await quit(relay);
    assert.equal(received(), 'EHLO relay.example\r\nVRFY someone\r\nQUIT\r\n');
  });

  it('passes on what is pipelined, from the first command that needs the server', async (t) => {
    const { relay, received } = await start(t, {});
    const mail = ['NOOP', 'MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'DATA', 'Hi.', '.', 'QUIT'];
    relay.send('EHLO client.example', ...mail);
    relay.end();
    const replies = (await relay.rest()).match(/^\d{3} /gm);
    assert.deepEqual(replies, ['250 ', '250 ', '250 ', '250 ', '354 ', '250 ', '221 ']);
    assert.equal(received(), ['EHLO client.example', ...mail.slice(1), ''].join('\r\n'));
    assert.equal(await relay.status, 0);
  });

  it('passes on what the server sends behind its reply to EHLO', async (t) => {
    const { relay } = await start(t, { replies: { EHLO: '250 far.example\r\n421 4.3.2 leaving' } });
    assert.equal(await relay.ask('EHLO client.example'), '250 far.example');
    assert.equal(await relay.ask('MAIL FROM:<a@b>'), '421 4.3.2 leaving');
  });

  it('introduces the client by HELO to a server without EHLO', async (t) => {
    const { relay, received } = await start(t, { replies: { EHLO: '502 5.5.1 what?' } });
    assert.equal(await relay.ask('EHLO client.example'), '250 ok');
    assert.equal(received(), 'EHLO client.example\r\nHELO client.example\r\n');
  });

  it('ends when the client leaves, and with it the connection to the server', async (t) => {
    const { server, relay } = await start(t, {});
    await relay.ask('EHLO client.example');
    relay.end();
    assert.equal(await relay.status, 0);
    await until(
      'the server has got QUIT',
      () => server.connections[0]?.cleartext.endsWith('QUIT\r\n') === true,
    );
  });

  it('ends with 421 when the client sends nothing', async (t) => {
    const { relay } = await start(t, {}, '-t', '1');
    assert.match(await relay.reply(), /^421 4\.4\.2 /);
  });

  it('ends at SIGTERM', async (t) => {
    const { relay } = await start(t, {});
    await relay.ask('EHLO client.example');
    relay.child.kill('SIGTERM');
    assert.match(await relay.reply(), /^421 4\.3\.2 /);
    relay.end();
    assert.equal(await relay.status, 111);
  });

  it('speaks LMTP with both', async (t) => {
    const server = await startFarServer(t, {});
    const relay = startRelay(t, ['-l', 'relay.example', `lmtp://127.0.0.1:${server.port}`]);
    assert.equal(await relay.reply(), '220 relay.example LMTP');
    assert.equal(await relay.ask('LHLO client.example'), '250-far.example\n250 PIPELINING');
    await relay.ask('MAIL FROM:<a@b>');
    await quit(relay);
    assert.equal(server.connections[0]?.cleartext, 'LHLO client.example\r\nMAIL FROM:<a@b>\r\nQUIT\r\n');
  });

  it('connects to a Unix socket', async (t) => {
    const path = join(certificates.folder, 'socket');
    const server = await startFarServer(t, { pair }, { path });
    const pinned = startRelay(t, ['--pin', sha256OfKey(pair.certFile), `tls+unix:${path}`]);
    assert.equal(await sendMessage(pinned), undefined);
    assert.equal(server.connections[0]?.delivered, 'in TLS');
  });

  it('sends the addresses of the client to the server, first', async (t) => {
    const server = await startFarServer(t, { implicit: true, pair });
    const plain = await startFarServer(t, {});
    const ends = {
      ...{ TCPREMOTEIP: '192.0.2.7', TCPREMOTEPORT: '40000', TCPLOCALIP: '192.0.2.1', TCPLOCALPORT: '25' },
    };
    const relay = startRelay(t, ['--send-proxy', 'v1', `smtp://127.0.0.1:${plain.port}`], ends);
    await sendMessage(relay);
    assert.match(
      plain.connections[0]?.cleartext ?? '',
      /^PROXY TCP4 192\.0\.2\.7 192\.0\.2\.1 40000 25\r\nEHLO /,
    );
    assert.equal(server.connections.length, 0);
  });
});

describe('TLS with the server', () => {
  it('is logged, verified or not, and whether or not that is required', async (t) => {
    const server = await startFarServer(t, { pair });
    const url = `smtp+tls://localhost:${server.port}`;
    const trusted = startRelay(t, ['-v', '2', url], TRUST);
    await sendMessage(trusted);
    await trusted.status;
    assert.match(
      trusted.stderr(),
      new RegExp(
        `^smtp-relay-io: info: TLS with localhost:${server.port}: TLSv1\\.3 TLS_\\w+, verified$`,
        'm',
      ),
    );
    const other = certificates.selfSigned('another.example');
    const untrusted = startRelay(t, ['-v', '2', url], { CAFILE: other.certFile });
    await sendMessage(untrusted);
    await untrusted.status;
    assert.match(untrusted.stderr(), /, not verified: UNABLE_TO_/);
    assert.equal(server.connections[0]?.serverName, 'localhost');
  });

  it('accepts a pinned key in place of its certificate, and no other key', async (t) => {
    const ofNobody = certificates.selfSigned('another.example');
    const server = await startFarServer(t, { pair: ofNobody, implicit: true });
    const url = `smtps://127.0.0.1:${server.port}`;
    const pin = sha256OfKey(ofNobody.certFile);
    const old = '0'.repeat(64);
    assert.equal(
      await sendMessage(startRelay(t, ['--pin', old, '--pin', pin.toUpperCase(), url])),
      undefined,
    );
    const refusal = await sendMessage(startRelay(t, ['--pin', old, url]));
    assert.equal(
      refusal,
      `451 4.7.5 127.0.0.1:${server.port}: the server is not verified: the key is not pinned: ${pin}`,
    );
  });

  it('presents the certificate of CERTFILE', async (t) => {
    const server = await startFarServer(t, { pair, implicit: true, authority: authority.certFile });
    const client = certificates.signedBy(authority, 'client.example');
    const keys = { ...TRUST, CERTFILE: client.certFile, KEYFILE: client.keyFile };
    assert.equal(await sendMessage(startRelay(t, [`smtps://localhost:${server.port}`], keys)), undefined);
    assert.equal(server.connections[0]?.clientName, 'client.example');
  });

  it('is tried at the second port of ssl:// too', async (t) => {
    const first = await startFarServer(t, {});
    const second = await startFarServer(t, { pair, implicit: true });
    const relay = startRelay(t, [`ssl://localhost:${first.port},${second.port}`], TRUST);
    assert.equal(await sendMessage(relay), undefined);
    await relay.status;
    assert.equal(second.connections[0]?.delivered, 'in TLS');
    assert.equal(first.connections[0]?.cleartext, 'EHLO client.example\r\n');
    assert.match(
      relay.stderr(),
      new RegExp(
        `localhost:${first.port}: STARTTLS is not offered\\n.*trying localhost:${second.port} with TLS from the first byte`,
      ),
    );
  });

  it('is not tried at the second port of ssl:// when the first has given its answer in TLS', async (t) => {
    const first = await startFarServer(t, { pair, replies: { AUTH: '535 5.7.8 wrong' } });
    const second = await startFarServer(t, { pair, implicit: true });
    const file = credentialsFile(t, 'localhost alice wonderland\n');
    const url = `ssl://localhost:${first.port},${second.port}`;
    const refusal = await sendMessage(startRelay(t, ['--credentials', file, url], TRUST));
    assert.match(refusal ?? '', /^451 4\.7\.8 /);
    assert.equal(second.connections.length, 0);
  });
});

describe('AUTH', () => {
  async function authenticate(
    t: TestContext,
    options: FarServerOptions,
    file: string,
  ): Promise<[Relay, string | undefined, string]> {
    const server = await startFarServer(t, { pair, ...options });
    const relay = startRelay(
      t,
      ['--credentials', credentialsFile(t, file), `tls://localhost:${server.port}`],
      TRUST,
    );
    const refusal = await sendMessage(relay);
    await relay.status;
    return [relay, refusal?.replace(/:\d+/, ''), server.connections.map(({ tls }) => tls).join('|')];
  }

  it('uses the line of the host', async (t) => {
    const file = '# hosts\n\nmail.example bob secret\nLocalhost alice  wonder land \n';
    const [, refusal, tls] = await authenticate(t, {}, file);
    assert.equal(refusal, undefined);
    const response = Buffer.from('\0alice\0wonder land ').toString('base64');
    assert.match(tls, new RegExp(`^EHLO client\\.example\r\nAUTH PLAIN ${response}\r\nMAIL `));
  });

  it('is not used for another host', async (t) => {
    const [, refusal, tls] = await authenticate(t, {}, 'mail.example bob secret\n');
    assert.equal(refusal, undefined);
    assert.doesNotMatch(tls, /AUTH/);
  });

  it('that is refused is a temporary failure, with the reply on stderr only', async (t) => {
    const [relay, refusal] = await authenticate(
      t,
      { replies: { AUTH: '535 5.7.8 bad password' } },
      'localhost a b\n',
    );
    assert.equal(refusal, '451 4.7.8 localhost: it refused our credentials');
    assert.match(relay.stderr(), /: it refused our credentials: 535 5\.7\.8 bad password\n/);
    assert.equal(await relay.status, 111);
  });

  it('that is not offered is a temporary failure', async (t) => {
    const [, refusal] = await authenticate(t, { offers: ['AUTH GSSAPI'] }, 'localhost a b\n');
    assert.equal(refusal, '451 4.7.4 localhost: it offers no AUTH that can be used');
  });

  it('is left out, with a warning, where the server is not verified', async (t) => {
    const server = await startFarServer(t, {});
    const file = credentialsFile(t, 'localhost a b\n');
    const relay = startRelay(t, ['--credentials', file, `smtp://localhost:${server.port}`]);
    assert.equal(await sendMessage(relay), undefined);
    await relay.status;
    assert.match(
      relay.stderr(),
      /warning: no credentials are sent to localhost:\d+: it is not verified: no TLS\n/,
    );
  });
});

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
  for (const [what, options, reply] of REFUSALS) {
    it(`because it ${what}, is the reply to all commands that need it; the session goes on`, async (t) => {
      const { server, relay } = await start(t, options);
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

  it('because the connection is lost, is a temporary failure', async (t) => {
    const { server, relay } = await start(t, { replies: { EHLO: '250-half a reply' } });
    relay.send('EHLO client.example');
    await until(
      'the server has got EHLO',
      () => server.connections[0]?.cleartext.startsWith('EHLO') === true,
    );
    server.connections[0]?.socket.resetAndDestroy();
    assert.match(await relay.reply(), /^451 4\.4\.2 localhost:\d+: the connection was lost: ECONNRESET$/);
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
