/** A TLS server for many connections: lib/tls/handshake.ts. Single connections: test/ucspi-tlsd. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { type EventEmitter, once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { after, before, describe, it, type TestContext } from 'node:test';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import type { KeyPair } from '../../../lib/tls/context.ts';
import type { CredentialFiles } from '../../../lib/tls/credentials.ts';
import { describeSession } from '../../../lib/tls/description.ts';
import {
  createTlsServer,
  type HandshakeFailure,
  type TlsServer,
  type TlsServerOptions,
} from '../../../lib/tls/handshake.ts';
import { type CertificateMaker, makeCertificates, type Pair } from '../../support/certificate.ts';
import { run } from '../../support/real.ts';
import { collect, startTls as startClient } from '../../support/tls-client.ts';
import { listen, plainClient } from '../../support/tls-listener.ts';
import { within } from '../../support/within.ts';

const VERSIONS = ['TLSv1.2', 'TLSv1.3'] as const;
const OPTIONS: TlsServerOptions = { clientCertificate: 'none', timeout: 20_000, alpn: undefined };

/** Server names that a client may request but that must not be in the environment of smtpd. */
const NO_HOST_NAMES = [
  ['a newline', 'a\nb.example.org'],
  ['a newline at the end', 'a.example.org\n'],
  ['a blank', 'a b.example.org'],
  ['a control character', 'a\x1b[2J.example.org'],
  ['an octet beyond ASCII', 'b\u00fccher.example.org'],
  ['an asterisk', '*.example.org'],
] as const;

/** The longest single wait of a test, in milliseconds: longer than a handshake may take. */
const LIMIT = 30_000;

/** The arguments of an event; rejects when it is not emitted in time. */
function emitted(emitter: EventEmitter, event: string): ReturnType<typeof once> {
  return within(LIMIT, `event '${event}'`, once(emitter, event));
}

/** Does the client side of a handshake. */
function startTls(wire: Duplex, options: ConnectionOptions = {}): Promise<TLSSocket> {
  return within(LIMIT, "end of the client's handshake", startClient(wire, options));
}

let certificates: CertificateMaker;
let ec: Pair;
let rsa: Pair;
let authority: Pair;
let client: Pair;
let badClient: Pair;
before(() => {
  certificates = makeCertificates();
  authority = certificates.selfSigned('authority');
  ec = certificates.signedBy(authority, 'ec');
  writeFileSync(ec.certFile, readFileSync(authority.certFile), { flag: 'a' });
  rsa = certificates.selfSigned('rsa', ['rsa:2048']);
  client = certificates.signedBy(authority, 'client.example.org');
  badClient = certificates.signedBy(certificates.selfSigned('authority'), 'client.example.org');
});
after(() => certificates.remove());

function pairOf({ certFile, keyFile }: Pair): KeyPair {
  return {
    certificate: readFileSync(certFile, 'latin1'),
    key: readFileSync(keyFile, 'latin1'),
    path: certFile,
  };
}

function filesOf(more: Partial<CredentialFiles> = {}): CredentialFiles {
  return { standard: [pairOf(ec)], byName: {}, authorities: [], ...more };
}

function askingFiles(): CredentialFiles {
  return filesOf({ authorities: [readFileSync(authority.certFile, 'latin1')] });
}

function shown({ certFile, keyFile }: Pair): ConnectionOptions {
  return { cert: readFileSync(certFile), key: readFileSync(keyFile) };
}

async function reasonFor(
  t: TestContext,
  tls: TlsServer,
  act: (socket: Socket) => void,
): Promise<HandshakeFailure> {
  const scene = await listen(t, tls);
  act(await plainClient(t, scene.port));
  const { connection, failure } = await scene.next();
  assert.ok(failure !== undefined);
  assert.ok(connection.destroyed);
  return failure;
}

describe('a TLS server', { concurrency: 4, timeout: 60_000 }, () => {
  it('reports the outcome of each of many connections', async (t) => {
    const scene = await listen(t, createTlsServer(filesOf(), OPTIONS));
    const good = new Set<number>();
    const bad = new Set<number>();
    const clients = Array.from({ length: 24 }, async (_, n) => {
      const socket = await plainClient(t, scene.port);
      if (n % 3 === 0) {
        bad.add(socket.localPort ?? 0);
        socket.write('EHLO client.example.org\r\n');
      } else {
        const tls = await startTls(socket);
        good.add(socket.localPort ?? 0);
        tls.write(`${socket.localPort}`);
      }
    });
    for (let n = 0; n < 24; n++) {
      const { connection, socket, failure } = await scene.next();
      const port = connection.remotePort ?? 0;
      if (socket === undefined) {
        assert.equal(failure?.reason, 'ERR_SSL_WRONG_VERSION_NUMBER');
        continue;
      }
      const [received]: Buffer[] = await emitted(socket, 'data');
      assert.equal(String(received), String(port));
      assert.ok(good.has(port));
    }
    await Promise.all(clients);
    assert.deepEqual([good.size, bad.size], [16, 8]);
  });

  it('parses certificates on first use, and once', async (t) => {
    const reads: string[] = [];
    const counted = (name: string, { certificate, ...rest }: KeyPair): KeyPair => ({
      get certificate() {
        reads.push(name);
        return certificate;
      },
      ...rest,
    });
    const standard = [counted('standard', pairOf(ec))];
    const byName = { 'a.example': [counted('a', pairOf(rsa))], 'b.example': [counted('b', pairOf(rsa))] };
    const scene = await listen(t, createTlsServer(filesOf({ standard, byName }), OPTIONS));
    assert.deepEqual(reads, []);
    for (const servername of ['a.example', '', 'A.example', 'other.example', 'a.example']) {
      await startTls(await plainClient(t, scene.port), { servername });
      assert.ok((await scene.next()).socket !== undefined);
    }
    assert.deepEqual(reads, ['a', 'standard']);
  });

  for (const byName of [{}, { a: [] }]) {
    it(`uses the handle of the socket${'a' in byName ? ' after reading the server name' : ''}`, async (t) => {
      const scene = await listen(t, createTlsServer(filesOf({ byName }), OPTIONS));
      await startTls(await plainClient(t, scene.port));
      const { connection, socket } = await scene.next();
      assert.ok(socket !== undefined);
      // On any other stream Node's TLS engine would add a 'data' listener.
      assert.equal(connection.listenerCount('data'), 0);
    });
  }

  for (const [what, servername] of NO_HOST_NAMES) {
    it(`ignores a server name with ${what}`, async (t) => {
      const files = filesOf({ byName: { '*.example.org': [pairOf(rsa)] } });
      const scene = await listen(t, createTlsServer(files, OPTIONS));
      const shownTo = await startTls(await plainClient(t, scene.port), { servername });
      const { socket } = await scene.next();
      assert.ok(socket !== undefined);
      assert.equal(describeSession(socket).get('SSL_TLS_SNI_SERVERNAME'), undefined);
      assert.equal(shownTo.getPeerCertificate().subject.CN, 'ec');
    });
  }

  it('reports the requested server name even if it selected no certificate', async (t) => {
    const scene = await listen(t, createTlsServer(filesOf(), OPTIONS));
    await startTls(await plainClient(t, scene.port), { servername: 'a.example' });
    const { socket } = await scene.next();
    assert.ok(socket !== undefined);
    assert.equal(describeSession(socket).get('SSL_TLS_SNI_SERVERNAME'), 'a.example');
  });

  it('removes the listeners of a session that is closed', async (t) => {
    const scene = await listen(t, createTlsServer(filesOf(), OPTIONS));
    const client = await startTls(await plainClient(t, scene.port));
    const { connection, socket } = await scene.next();
    assert.ok(socket !== undefined);
    const streams = [connection, socket];
    const closed = Promise.all(streams.map((stream) => emitted(stream, 'close')));
    socket.on('data', () => {});
    socket.on('end', () => socket.end());
    client.end();
    await closed;
    assert.deepEqual(
      streams.map((stream) => stream.eventNames()),
      [['error'], ['error']],
    );
  });
});

describe('pairs of several key types', { concurrency: 4, timeout: 60_000 }, () => {
  for (const byName of [false, true]) {
    for (const version of ['-tls1_2', '-tls1_3']) {
      for (const [algorithm, name, count] of [
        ['ECDSA+SHA256', 'ec', 2],
        ['RSA-PSS+SHA256', 'rsa', 1],
      ] as const) {
        it(`give ${name} for ${algorithm} in ${version}${byName ? ', by name' : ''}`, async (t) => {
          const both = [pairOf(rsa), pairOf(ec)];
          const files = filesOf(
            byName ? { byName: { 'a.example': both }, standard: [] } : { standard: both },
          );
          const scene = await listen(t, createTlsServer(files, OPTIONS));
          const connectTo = ['-connect', `127.0.0.1:${scene.port}`, '-servername', 'a.example'];
          const command = ['openssl', 's_client', ...connectTo, version, '-sigalgs', algorithm, '-showcerts'];
          const { stdout } = await run(command);
          assert.match(stdout, new RegExp(`^subject=.*CN ?= ?${name}$`, 'm'));
          // Each with its own chain.
          assert.equal(stdout.match(/-BEGIN CERTIFICATE-/g)?.length, count);
        });
      }
    }
  }
});

describe('the reason of a failure', { concurrency: 4, timeout: 60_000 }, () => {
  for (const byName of [{}, { a: [] }]) {
    const more = 'a' in byName ? ', when names are read' : '';

    it(`is timeout${more}`, async (t) => {
      const tls = createTlsServer(filesOf({ byName }), { ...OPTIONS, timeout: 50 });
      const failure = await reasonFor(t, tls, () => {});
      assert.deepEqual([failure.reason, failure.message], ['timeout', 'the handshake took too long']);
    });

    it(`is a code of OpenSSL${more}`, async (t) => {
      const tls = createTlsServer(filesOf({ byName }), OPTIONS);
      const failure = await reasonFor(t, tls, (socket) => socket.write('EHLO client.example.org\r\n'));
      assert.equal(failure.reason, 'ERR_SSL_WRONG_VERSION_NUMBER');
      assert.equal(failure.message, failure.reason);
    });

    it(`is a connection error when the client disconnects${more}`, async (t) => {
      const tls = createTlsServer(filesOf({ byName }), OPTIONS);
      const failure = await reasonFor(t, tls, (socket) => socket.end(Buffer.from([22, 3])));
      assert.equal(failure.reason, 'hung-up');
    });

    it(`is hung-up for a connection that has already ended${more}`, async (t) => {
      const tls = createTlsServer(filesOf({ byName }), { ...OPTIONS, timeout: 0 });
      const scene = await listen(t, createTlsServer(filesOf(), OPTIONS));
      (await plainClient(t, scene.port)).destroy();
      const { connection } = await scene.next();
      const handshake = within(
        LIMIT,
        'failure of a handshake',
        tls.shakeHands(connection, () => {}),
      );
      await assert.rejects(handshake, { reason: 'hung-up' });
    });
  }

  it('is no-certificate when there is none for the name', async (t) => {
    const files = filesOf({ standard: [], byName: { 'a.example': [pairOf(ec)] } });
    const scene = await listen(t, createTlsServer(files, OPTIONS));
    for (const [servername, why] of [
      ['b.example', 'no certificate for b.example'],
      ['', 'no certificate for a client without a server name'],
    ] as const) {
      await assert.rejects(startTls(await plainClient(t, scene.port), { servername }), /handshake failure/);
      const { failure } = await scene.next();
      assert.deepEqual([failure?.reason, failure?.message], ['no-certificate', why]);
    }
  });

  for (const clientCertificate of ['optional', 'required'] as const) {
    for (const maxVersion of VERSIONS) {
      it(`is bad-client-certificate when one is ${clientCertificate}, in ${maxVersion}`, async (t) => {
        const scene = await listen(t, createTlsServer(askingFiles(), { ...OPTIONS, clientCertificate }));
        const socket = await plainClient(t, scene.port);
        const shaken = startTls(socket, { ...shown(badClient), maxVersion }).then((tls) => collect(tls).all);
        // Node sends no alert. In TLS 1.3 the client completes the handshake before the server sees the certificate.
        const seen =
          maxVersion === 'TLSv1.2'
            ? assert.rejects(shaken, /disconnected before secure TLS connection/)
            : shaken.then((text) => assert.equal(text, ''));
        const { failure } = await scene.next();
        assert.equal(failure?.reason, 'bad-client-certificate');
        assert.match(failure?.message ?? '', /^invalid client certificate: UNABLE_TO_VERIFY_LEAF_SIGNATURE$/);
        await seen;
      });
    }
  }
});

describe('a session', { concurrency: 4, timeout: 60_000 }, () => {
  const keys = randomBytes(48);

  /** Connects, and sends nothing. */
  function slot(t: TestContext, port: number, options: ConnectionOptions): TLSSocket {
    const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...options });
    t.after(() => socket.destroy());
    socket.on('error', () => {});
    // In TLS 1.3 the ticket is sent after the handshake, as data is.
    return socket.resume();
  }

  async function begin(t: TestContext, port: number, options: ConnectionOptions): Promise<Buffer> {
    const [session]: Buffer[] = await emitted(slot(t, port, options), 'session');
    assert.ok(session !== undefined);
    return session;
  }

  /** Whether a session is resumed, from the client's view. */
  async function goesOn(t: TestContext, port: number, options: ConnectionOptions): Promise<boolean> {
    const socket = slot(t, port, options);
    await emitted(socket, 'secureConnect');
    return socket.isSessionReused();
  }

  /** Whether a server resumes a session of another, from the view of both ends. */
  async function resumes(
    t: TestContext,
    first: TlsServer,
    second: TlsServer,
    options: ConnectionOptions,
    meanwhile: () => void = () => {},
  ): Promise<{ resumed: boolean; socket: TLSSocket }> {
    const [one, other] = [await listen(t, first), await listen(t, second)];
    const session = await begin(t, one.port, options);
    assert.equal((await one.next()).socket?.isSessionReused(), false);
    meanwhile();
    const resumed = await goesOn(t, other.port, { ...options, session });
    const { socket } = await other.next();
    assert.ok(socket !== undefined);
    assert.equal(socket.isSessionReused(), resumed);
    return { resumed, socket };
  }

  for (const maxVersion of VERSIONS) {
    describe(`of ${maxVersion}`, { concurrency: 4 }, () => {
      const make = (more: Partial<TlsServerOptions> = {}, files = filesOf()): TlsServer =>
        createTlsServer(files, { ...OPTIONS, ticketKeys: keys, ...more });

      it('is resumed by another server with the same keys', async (t) => {
        assert.ok((await resumes(t, make(), make(), { maxVersion })).resumed);
      });

      it('is resumed by another server with a renewed certificate', async (t) => {
        const renewed = make({}, filesOf({ standard: [pairOf(rsa)] }));
        assert.ok((await resumes(t, make(), renewed, { maxVersion })).resumed);
      });

      it('is resumed by name', async (t) => {
        const files = filesOf({ byName: { 'a.example': [pairOf(rsa)] } });
        const options = { maxVersion, servername: 'a.example' };
        const { resumed, socket } = await resumes(t, make({}, files), make({}, files), options);
        assert.ok(resumed);
        assert.equal(describeSession(socket).get('SSL_TLS_SNI_SERVERNAME'), 'a.example');
      });

      it('is resumed by name even if the name selected no certificate', async (t) => {
        const options = { maxVersion, servername: 'a.example' };
        const { resumed, socket } = await resumes(t, make(), make(), options);
        assert.ok(resumed);
        assert.equal(describeSession(socket).get('SSL_TLS_SNI_SERVERNAME'), 'a.example');
      });

      for (const [what, servername] of NO_HOST_NAMES) {
        it(`ignores a server name with ${what} when resumed`, async (t) => {
          const { resumed, socket } = await resumes(t, make(), make(), { maxVersion, servername });
          assert.ok(resumed);
          assert.equal(describeSession(socket).get('SSL_TLS_SNI_SERVERNAME'), undefined);
        });
      }

      for (const servername of ['a.example', '']) {
        it(`is not resumed when there is no certificate for "${servername}"`, async (t) => {
          const strict = make({}, filesOf({ standard: [], byName: { 'b.example': [pairOf(ec)] } }));
          const [one, other] = [await listen(t, make()), await listen(t, strict)];
          const session = await begin(t, one.port, { maxVersion, servername });
          slot(t, other.port, { maxVersion, servername, session });
          assert.equal((await other.next()).failure?.reason, 'no-certificate');
        });
      }

      it('is not resumed under another name', async (t) => {
        const files = filesOf({ byName: { 'a.example': [pairOf(rsa)] } });
        const [one, other] = [await listen(t, make({}, files)), await listen(t, make({}, files))];
        const session = await begin(t, one.port, { maxVersion, servername: 'a.example' });
        assert.equal(await goesOn(t, other.port, { maxVersion, session, servername: 'b' }), false);
      });

      it('is not resumed by a server with other keys', async (t) => {
        const other = make({ ticketKeys: randomBytes(48) });
        assert.equal((await resumes(t, make(), other, { maxVersion })).resumed, false);
      });

      it('is not resumed after the keys were changed', async (t) => {
        const tls = make();
        const change = (): void => tls.setTicketKeys(randomBytes(48));
        assert.equal((await resumes(t, tls, tls, { maxVersion }, change)).resumed, false);
      });

      it('is resumed with keys set on a running server, before or after its first use', async (t) => {
        const [unused, used] = [make({ ticketKeys: randomBytes(48) }), make({ ticketKeys: randomBytes(48) })];
        const scene = await listen(t, used);
        await begin(t, scene.port, { maxVersion });
        assert.equal((await scene.next()).socket?.isSessionReused(), false);
        for (const tls of [unused, used]) tls.setTicketKeys(keys);
        assert.ok((await resumes(t, unused, used, { maxVersion })).resumed);
      });

      for (const clientCertificate of ['optional', 'required'] as const) {
        const asking = (): TlsServer => make({ clientCertificate }, askingFiles());

        it(`is not resumed when a client certificate is ${clientCertificate}`, async (t) => {
          const { resumed, socket } = await resumes(t, asking(), asking(), { maxVersion, ...shown(client) });
          assert.equal(resumed, false);
          assert.equal(describeSession(socket).get('SSL_PEER_CERT_SUBJECT'), 'CN=client.example.org');
        });

        it(`does not replace a client certificate that is ${clientCertificate}`, async (t) => {
          const [one, other] = [await listen(t, asking()), await listen(t, asking())];
          const session = await begin(t, one.port, { maxVersion, ...shown(client) });
          slot(t, other.port, { maxVersion, session });
          const { socket, failure } = await other.next();
          if (clientCertificate === 'required') {
            assert.equal(failure?.reason, 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE');
          } else {
            assert.ok(socket !== undefined);
            assert.equal(describeSession(socket).get('SSL_PEER_CERT_SUBJECT'), undefined);
          }
        });
      }

      it('does not admit a client that sent a bad certificate', async (t) => {
        const make2 = (): TlsServer => make({ clientCertificate: 'optional' }, askingFiles());
        const [one, other] = [await listen(t, make2()), await listen(t, make2())];
        const options = { maxVersion, ...shown(badClient) };
        const socket = slot(t, one.port, options);
        let session: Buffer | undefined;
        socket.on('session', (bytes) => {
          session = bytes;
        });
        assert.equal((await one.next()).failure?.reason, 'bad-client-certificate');
        const closed = new Promise((resolve) => socket.on('close', resolve));
        if (!socket.closed) await within(LIMIT, 'close of the connection', closed);
        // Without a ticket the client has nothing to resume.
        if (session === undefined) return;
        slot(t, other.port, { ...options, session });
        assert.equal((await other.next()).failure?.reason, 'bad-client-certificate');
      });

      it('is not resumed by a server with stricter client authentication', async (t) => {
        const modes = ['none', 'optional', 'required'] as const;
        for (const [at, clientCertificate] of modes.slice(1).entries()) {
          const less = make({ clientCertificate: modes[at] ?? 'none' }, askingFiles());
          const more = make({ clientCertificate }, askingFiles());
          const { resumed } = await resumes(t, less, more, { maxVersion, ...shown(client) });
          assert.equal(resumed, false);
        }
      });

      it('is not resumed by a server with other authorities', async (t) => {
        const clientCertificate = 'optional';
        const { authorities } = askingFiles();
        const others = filesOf({ authorities: [...authorities, readFileSync(rsa.certFile, 'latin1')] });
        const [one, other] = [
          make({ clientCertificate }, askingFiles()),
          make({ clientCertificate }, others),
        ];
        assert.equal((await resumes(t, one, other, { maxVersion, ...shown(client) })).resumed, false);
      });

      it('does not replace the protocol that a client must offer', async (t) => {
        const [one, other] = [await listen(t, make()), await listen(t, make({ alpn: 'smtp' }))];
        const session = await begin(t, one.port, { maxVersion });
        slot(t, other.port, { maxVersion, session, ALPNProtocols: ['h2'] });
        assert.equal((await other.next()).failure?.reason, 'ERR_SSL_NO_APPLICATION_PROTOCOL');
        assert.ok(await goesOn(t, other.port, { maxVersion, session, ALPNProtocols: ['smtp'] }));
      });

      it('is resumed by another program with the same keys', async (t) => {
        const port = await otherProgram(t, { files: filesOf(), options: OPTIONS, keys });
        const scene = await listen(t, make());
        const session = await begin(t, port, { maxVersion });
        assert.ok(await goesOn(t, scene.port, { maxVersion, session }));
      });
    });
  }

  it('requires keys of 48 octets', () => {
    const why = /ticket keys must have 48 octets, not 47/;
    assert.throws(() => createTlsServer(filesOf(), { ...OPTIONS, ticketKeys: randomBytes(47) }), why);
    assert.throws(() => createTlsServer(filesOf(), OPTIONS).setTicketKeys(randomBytes(47)), why);
  });
});

/** A TLS server in a process with another command line. @returns its port. */
async function otherProgram(
  t: TestContext,
  { keys, ...rest }: { files: CredentialFiles; options: TlsServerOptions; keys: Buffer },
): Promise<number> {
  const module = new URL('../../../lib/tls/handshake.ts', import.meta.url).href;
  const program = `
    import { createServer } from 'node:net';
    import { createTlsServer } from ${JSON.stringify(module)};
    const { files, options, ticketKeys } = JSON.parse(process.env.TEST_SERVER);
    const tls = createTlsServer(files, { ...options, ticketKeys: Buffer.from(ticketKeys, 'base64') });
    const listener = createServer((connection) => tls.shakeHands(connection, () => {}).catch(console.error));
    listener.listen(0, '127.0.0.1', () => console.log(listener.address().port));
  `;
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '--eval', program, 'another', 'command', 'line'],
    {
      env: { ...process.env, TEST_SERVER: JSON.stringify({ ...rest, ticketKeys: keys.toString('base64') }) },
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  t.after(() => child.kill('SIGKILL'));
  const [line]: Buffer[] = await emitted(child.stdout, 'data');
  return Number(line);
}
