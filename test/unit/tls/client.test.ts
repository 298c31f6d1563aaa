/** The client side of TLS, with real servers. */

import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { after, describe, it, type TestContext } from 'node:test';
import { createServer as createTlsServer, type TLSSocket, type TlsOptions } from 'node:tls';
import { createTlsClient, type TlsClientOptions } from '../../../lib/tls/client.ts';
import { readClientCredentials } from '../../../lib/tls/client-credentials.ts';
import { makeCertificates, type Pair } from '../../support/certificate.ts';
import { sha256OfKey } from '../../support/pin.ts';
import { DEADLINE, within } from '../../support/within.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const good = certificates.signedBy(authority, 'mail.example');
const OPTIONS: TlsClientOptions = {
  credentials: readClientCredentials({ CAFILE: authority.certFile }),
  pins: [],
  timeout: DEADLINE,
};

function pairOf({ certFile, keyFile }: Pair): TlsOptions {
  return { cert: readFileSync(certFile), key: readFileSync(keyFile) };
}

/** Does a handshake with a server. `seen` is the socket of the server. */
async function shakeHands(
  t: TestContext,
  server: TlsOptions,
  host: string | undefined,
  options: Partial<TlsClientOptions> = {},
) {
  const listener = createTlsServer(server);
  const seen = once(listener, 'secureConnection').then(([socket]) => socket as TLSSocket);
  seen.catch(() => {});
  const connection = await connectTo(t, listener.listen(0, '127.0.0.1'));
  const tls = await within(
    DEADLINE,
    'end of the handshake',
    createTlsClient({ ...OPTIONS, ...options }).shakeHands(connection, host, () => {}),
  );
  return { ...tls, seen: await within(DEADLINE, 'socket of the server', seen) };
}

async function connectTo(t: TestContext, listener: ReturnType<typeof createServer>): Promise<Socket> {
  if (!listener.listening) await once(listener, 'listening');
  const connection = connect((listener.address() as AddressInfo).port, '127.0.0.1');
  listener.on('connection', (socket: Socket) => t.after(() => socket.destroy()));
  t.after(() => {
    connection.destroy();
    listener.close();
  });
  await once(connection, 'connect');
  return connection;
}

describe('a TLS session with a server', () => {
  it('is verified by chain and name', async (t) => {
    const { fault, description, seen } = await shakeHands(t, pairOf(good), 'mail.example');
    assert.equal(fault, undefined);
    assert.match(description, /^TLSv1\.3 TLS_AES_/);
    assert.equal(seen.servername, 'mail.example');
  });

  it('is verified for an absolute name', async (t) => {
    const { fault, seen } = await shakeHands(t, pairOf(good), 'mail.example.');
    assert.deepEqual([fault, seen.servername], [undefined, 'mail.example']);
  });

  it('is verified for an address, which is not sent as a name', async (t) => {
    const pair = certificates.signedBy(authority, '127.0.0.1');
    const { fault, seen } = await shakeHands(t, pairOf(pair), '127.0.0.1');
    assert.deepEqual([fault, seen.servername], [undefined, false]);
  });

  for (const [what, pair, host, fault] of [
    [
      'that no authority has signed',
      certificates.selfSigned('mail.example'),
      'mail.example',
      'DEPTH_ZERO_SELF_SIGNED_CERT',
    ],
    ['of another name', good, 'other.example', 'ERR_TLS_CERT_ALTNAME_INVALID'],
    ['of a name, where an address is expected', good, '127.0.0.1', 'ERR_TLS_CERT_ALTNAME_INVALID'],
    ['that has expired', certificates.expired(authority, 'mail.example'), 'mail.example', 'CERT_HAS_EXPIRED'],
    [
      'without anything to compare it with',
      good,
      undefined,
      'a Unix socket has no name, and no key is pinned',
    ],
  ] as const) {
    it(`is not verified with a certificate ${what}`, async (t) => {
      assert.equal((await shakeHands(t, pairOf(pair), host)).fault, fault);
    });
  }

  it('is verified by a pinned key, whatever the certificate', async (t) => {
    const pair = certificates.expired(authority, 'other.example');
    const pins = ['0'.repeat(64), sha256OfKey(pair.certFile)];
    assert.equal((await shakeHands(t, pairOf(pair), 'mail.example', { pins })).fault, undefined);
    assert.equal((await shakeHands(t, pairOf(pair), undefined, { pins })).fault, undefined);
  });

  it('is not verified with another key than the pinned ones, whatever the certificate', async (t) => {
    const { fault } = await shakeHands(t, pairOf(good), 'mail.example', { pins: ['0'.repeat(64)] });
    assert.equal(fault, `the key is not pinned: ${sha256OfKey(good.certFile)}`);
  });

  it('presents a client certificate', async (t) => {
    const client = certificates.signedBy(authority, 'client.example');
    const credentials = readClientCredentials({
      CAFILE: authority.certFile,
      CERTFILE: client.certFile,
      KEYFILE: client.keyFile,
    });
    const server = { ...pairOf(good), requestCert: true, ca: readFileSync(authority.certFile) };
    const { seen } = await shakeHands(t, server, 'mail.example', { credentials });
    assert.equal(seen.authorized, true);
    assert.equal(
      seen.getPeerX509Certificate()?.fingerprint256,
      new X509Certificate(readFileSync(client.certFile)).fingerprint256,
    );
  });

  it('uses TLS 1.2, but nothing older', async (t) => {
    const old = await shakeHands(t, { ...pairOf(good), maxVersion: 'TLSv1.2' }, 'mail.example');
    assert.match(old.description, /^TLSv1\.2 ECDHE-/);
    const older: TlsOptions = { maxVersion: 'TLSv1.1', minVersion: 'TLSv1', ciphers: 'ALL@SECLEVEL=0' };
    await assert.rejects(
      shakeHands(t, { ...pairOf(good), ...older }, 'mail.example'),
      /UNSUPPORTED_PROTOCOL|PROTOCOL_VERSION/,
    );
  });

  for (const [what, serve, fault] of [
    ['closes', (socket) => socket.end(), /the connection ended during the handshake|ECONNRESET/],
    ['sends cleartext', (socket) => socket.write('220 hello\r\n'), /WRONG_VERSION_NUMBER|PACKET_LENGTH/],
    ['sends nothing in time', () => {}, /the handshake took too long/],
  ] as readonly [string, (socket: Socket) => unknown, RegExp][]) {
    it(`fails when the server ${what}`, async (t) => {
      const listener = createServer((socket) => {
        socket.on('error', () => {});
        serve(socket);
      });
      const connection = await connectTo(t, listener.listen(0, '127.0.0.1'));
      const timeout = what.endsWith('in time') ? 100 : DEADLINE;
      await assert.rejects(
        createTlsClient({ ...OPTIONS, timeout }).shakeHands(connection, 'mail.example', () => {}),
        fault,
      );
      assert.ok(connection.destroyed);
    });
  }
});
