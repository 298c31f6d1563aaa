/** Messages through smtp-relay-io: large ones, servers that give up in the middle, and connections that are lost. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { createSecureContext, TLSSocket } from 'node:tls';
import { BIG_MESSAGE, refuseMessage } from '../support/backend.ts';
import { makeCertificates } from '../support/certificate.ts';
import { startFarServer } from '../support/far-server.ts';
import { type Relay, startRelay } from '../support/relay.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const pair = certificates.signedBy(authority, 'localhost');
const secureContext = createSecureContext({
  cert: readFileSync(pair.certFile),
  key: readFileSync(pair.keyFile),
});

/** Serves connections of TCP or TLS, or of a Unix socket, until the test ends. @returns the URL. */
async function listen(
  t: TestContext,
  scheme: string,
  serve: (stream: Socket, connection: Socket) => void,
): Promise<string> {
  const open = new Set<Socket>();
  const listener = createServer((socket) => {
    open.add(socket);
    const stream = scheme === 'smtps' ? new TLSSocket(socket, { isServer: true, secureContext }) : socket;
    for (const one of [socket, stream]) one.on('error', () => {});
    serve(stream, socket);
  });
  const path = join(certificates.folder, 'socket');
  listener.listen(scheme === 'smtp+unix' ? { path } : { host: '127.0.0.1', port: 0 });
  await once(listener, 'listening');
  t.after(() => {
    for (const socket of open) socket.destroy();
    listener.close();
  });
  if (scheme === 'smtp+unix') return `${scheme}:${path}`;
  return `${scheme}://localhost:${(listener.address() as AddressInfo).port}`;
}

/** Starts a relay to a URL, or by a route to it, and sends what precedes a message. */
async function startMessage(t: TestContext, url: string, how = ''): Promise<Relay> {
  const routes = join(certificates.folder, 'routes');
  writeFileSync(routes, `* ${url}\n`);
  const words = how === ROUTED ? ['--routes', routes] : [url];
  const relay = startRelay(t, words, { CAFILE: authority.certFile });
  await relay.reply();
  for (const command of ['EHLO client.example', 'MAIL FROM:<a@b>', 'RCPT TO:<c@d>']) {
    assert.match(await relay.ask(command), /^250/);
  }
  assert.match(await relay.ask('DATA'), /^354 /);
  return relay;
}

/** How a message is sent, besides by its URL. */
const ROUTED = ' and a route';

describe('a message', () => {
  for (const [scheme, how] of [['smtp'], ['smtps'], ['tls'], ['smtp', ROUTED], ['smtps', ROUTED]] as const) {
    it(`of ten million octets arrives as it was sent, by ${scheme}://${how ?? ''}`, async (t) => {
      const server = await startFarServer(t, { pair, implicit: scheme === 'smtps' });
      const relay = await startMessage(t, `${scheme}://localhost:${server.port}`, how);
      relay.child.stdin?.write(BIG_MESSAGE);
      relay.send('', '.');
      assert.equal(await relay.reply(), '250 2.0.0 stored');
      relay.send('QUIT');
      relay.end();
      assert.equal(await relay.rest(), '221 bye\r\n');
      assert.equal(await relay.status, 0);
      const received = server.connections
        .map(({ cleartext, tls }) => (scheme === 'smtp' ? cleartext : tls))
        .join('');
      assert.equal(
        received.slice(received.indexOf('DATA\r\n') + 6),
        `${BIG_MESSAGE.toString('latin1')}\r\n.\r\nQUIT\r\n`,
      );
    });
  }

  for (const [scheme, how] of [['smtp'], ['smtp+unix'], ['smtps'], ['smtp', ROUTED]] as const) {
    it(`that is refused in its middle gets the reply of the server, by ${scheme}${how ?? ''}`, async (t) => {
      const relay = await startMessage(t, await listen(t, scheme, refuseMessage), how);
      relay.child.stdin?.write(BIG_MESSAGE);
      assert.equal(await relay.reply(), '552 5.3.4 too big');
      relay.end();
      if (scheme === 'smtp+unix') assert.equal(await relay.status, 0);
      else await relay.status;
    });
  }

  for (const [scheme, how] of [['smtp'], ['smtps'], ['smtp', ROUTED]] as const) {
    it(`whose server is gone in its middle gets 421, by ${scheme}${how ?? ''}`, async (t) => {
      const url = await listen(t, scheme, (socket, connection) => {
        socket.write('220 far.example\r\n');
        socket.on('data', (bytes: Buffer) => {
          const text = bytes.toString('latin1');
          if (text === 'Hi.\r\n') connection.resetAndDestroy();
          else socket.write(text === 'DATA\r\n' ? '354 go\r\n' : '250 ok\r\n');
        });
      });
      const relay = await startMessage(t, url, how);
      relay.send('Hi.');
      assert.match(await relay.reply(), /^421 4\.3\.0 /);
      relay.end();
      assert.equal(await relay.status, 111);
      assert.match(
        relay.stderr(),
        /^smtp-relay-io: warning: unable to relay to smtps?:\/\/localhost:\d+: lost localhost:\d+: ECONNRESET\n$/,
      );
    });
  }
});
