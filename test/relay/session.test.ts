/** A session of smtp-relay-io: what the client is answered, what the server receives, and how it ends. */

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { startFarServer } from '../support/far-server.ts';
import { sha256OfKey } from '../support/pin.ts';
import { until } from '../support/processes.ts';
import { quit, sendMessage, startBoth, startRelay } from '../support/relay.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const pair = certificates.signedBy(authority, 'localhost');

describe('a session', () => {
  it('begins with a greeting of its own, and connects to no server before that is needed', async (t) => {
    const { server, relay, greeting } = await startBoth(t, {});
    assert.equal(greeting, '220 relay.example ESMTP');
    assert.equal(await relay.ask('NOOP'), '250 2.0.0 OK');
    assert.equal(await relay.ask('RSET'), '250 2.0.0 OK');
    await quit(relay);
    assert.equal(await relay.status, 0);
    assert.equal(server.connections.length, 0);
  });

  it('offers what the server offers, less STARTTLS and AUTH, and uses the name of the client', async (t) => {
    const offers = ['SIZE 1000', 'AUTH PLAIN', 'AUTH=LOGIN', '8BITMIME'];
    const { relay, received } = await startBoth(t, { pair, offers });
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
    const { relay, received } = await startBoth(t, {});
    assert.equal(await relay.ask('VRFY someone'), '250 ok');
    await quit(relay);
    assert.equal(received(), 'EHLO relay.example\r\nVRFY someone\r\nQUIT\r\n');
  });

  it('passes on what is pipelined, from the first command that needs the server', async (t) => {
    const { relay, received } = await startBoth(t, {});
    const mail = ['NOOP', 'MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'DATA', 'Hi.', '.', 'QUIT'];
    relay.send('EHLO client.example', ...mail);
    relay.end();
    const replies = (await relay.rest()).match(/^\d{3} /gm);
    assert.deepEqual(replies, ['250 ', '250 ', '250 ', '250 ', '354 ', '250 ', '221 ']);
    assert.equal(received(), ['EHLO client.example', ...mail, ''].join('\r\n'));
    assert.equal(await relay.status, 0);
  });

  it('passes on what the server sends behind its reply to EHLO', async (t) => {
    const { relay } = await startBoth(t, { replies: { EHLO: '250 far.example\r\n421 4.3.2 leaving' } });
    assert.equal(await relay.ask('EHLO client.example'), '250 far.example');
    assert.equal(await relay.ask('MAIL FROM:<a@b>'), '421 4.3.2 leaving');
  });

  it('introduces the client by HELO to a server without EHLO', async (t) => {
    const { relay, received } = await startBoth(t, { replies: { EHLO: '502 5.5.1 what?' } });
    assert.equal(await relay.ask('EHLO client.example'), '250 ok');
    assert.equal(received(), 'EHLO client.example\r\nHELO client.example\r\n');
  });

  it('ends when the client leaves, and with it the connection to the server', async (t) => {
    const { server, relay } = await startBoth(t, {});
    await relay.ask('EHLO client.example');
    relay.end();
    assert.equal(await relay.status, 0);
    await until(
      'the server has got QUIT',
      () => server.connections[0]?.cleartext.endsWith('QUIT\r\n') === true,
    );
  });

  it('ends with 421 when the client sends nothing', async (t) => {
    const { relay } = await startBoth(t, {}, '-t', '1');
    assert.match(await relay.reply(), /^421 4\.4\.2 /);
  });

  it('ends with 421 when the server reads nothing, although the client sends', async (t) => {
    const { server, relay } = await startBoth(t, {}, '-T', '3');
    for (const command of ['EHLO client.example', 'MAIL FROM:<a@b>', 'DATA']) await relay.ask(command);
    server.connections[0]?.socket.pause();
    relay.send('x'.repeat(50_000_000));
    assert.match(await relay.reply(), /^421 4\.4\.2 /);
    relay.end();
    assert.equal(await relay.status, 0);
  });

  it('ends at SIGTERM', async (t) => {
    const { relay } = await startBoth(t, {});
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
