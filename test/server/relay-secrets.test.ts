/** Credentials and authorities for a server by URL (--to URL), in one process and with workers; and its metrics. */

import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { type FarServer, type FarServerOptions, startFarServer } from '../support/far-server.ts';
import { childrenOf } from '../support/processes.ts';
import { sendMessage } from '../support/relay.ts';
import { certificateForAll, type RunningServer, startServer } from '../support/server.ts';
import { connectTo } from '../support/smtp-client.ts';
import { closedPort } from '../support/tcp.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const authority = certificates.selfSigned('authority.example');
const pair = certificates.signedBy(authority, 'localhost');
const TRUST: NodeJS.ProcessEnv = { RELAY_CAFILE: authority.certFile };

/** AUTH PLAIN of alice with this password. */
function plain(password: string): string {
  return `AUTH PLAIN ${Buffer.from(`\0alice\0${password}`).toString('base64')}\r\n`;
}

interface Scene {
  readonly far: FarServer;
  readonly server: RunningServer;
  /** Writes the file of credentials. */
  write(text: string): void;
}

/** A server with a password for the one that it passes mail on to. */
async function open(
  t: TestContext,
  scheme: string,
  behaviour: FarServerOptions,
  options: readonly string[] = [],
  environment = TRUST,
): Promise<Scene> {
  const folder = mkdtempSync(join(tmpdir(), 'relay-secrets-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'credentials');
  const write = (text: string): void => writeFileSync(path, text);
  write('localhost alice wonderland\n');
  chmodSync(path, 0o600);
  const far = await startFarServer(t, behaviour);
  const to = ['--to', `${scheme}://localhost:${far.port}`, '--credentials', path];
  const server = await startServer(['-v', '2', ...options, ...to], [], { environment });
  t.after(server.close);
  return { far, server, write };
}

/** Sends a message in a session of its own. @returns what the server has received in it, TLS decrypted. */
async function deliver(t: TestContext, { far, server }: Scene): Promise<string> {
  const before = far.connections.length;
  assert.equal(await sendMessage(await connectTo(t, server)), undefined);
  const { cleartext, tls } = far.connections[before] ?? assert.fail('no connection');
  return tls === '' ? cleartext : tls;
}

function withWorkers(workers: string): readonly string[] {
  return workers === '1' ? [] : ['--workers', workers];
}

describe('a password', { concurrency: 3, timeout: 60_000 }, () => {
  it('is sent in TLS to a verified server', async (t) => {
    for (const [scheme, behaviour] of [
      ['tls', { pair }],
      ['smtps', { pair, implicit: true }],
      ['smtp+tls', { pair }],
    ] as const) {
      const scene = await open(t, scheme, behaviour);
      assert.ok((await deliver(t, scene)).includes(plain('wonderland')), scheme);
    }
  });

  it('is not sent in cleartext or to a server that is not verified, and that is logged', async (t) => {
    const ofNobody = certificates.selfSigned('localhost');
    for (const [scheme, behaviour, why] of [
      ['smtp', { pair }, 'no TLS'],
      ['smtp+tls', {}, 'no TLS'],
      ['smtp+tls', { pair: ofNobody }, 'DEPTH_ZERO_SELF_SIGNED_CERT'],
    ] as const) {
      const scene = await open(t, scheme, behaviour);
      assert.doesNotMatch(await deliver(t, scene), /AUTH/);
      await scene.server.logs(
        new RegExp(
          `: warning: event=relay id=.*text="no credentials are sent to localhost:\\d+: it is not verified: ${why}"`,
        ),
      );
    }
  });

  it('is not sent if the authority is one for client certificates', async (t) => {
    const { far, server } = await open(t, 'tls', { pair }, ['-Y'], { CAFILE: authority.certFile });
    assert.match((await sendMessage(await connectTo(t, server))) ?? '', /^451 4\.7\.5 .*not verified/);
    assert.doesNotMatch(far.connections[0]?.tls ?? '', /AUTH/);
  });

  it('that is refused is a temporary failure, and no secret is in the log', async (t) => {
    const replies = { AUTH: '535 5.7.8 who?' };
    const { server } = await open(t, 'tls', { pair, replies });
    const refusal = await sendMessage(await connectTo(t, server));
    assert.match(refusal ?? '', /^451 4\.7\.8 localhost:\d+: it refused our credentials$/);
    await server.logs(/event=relay .*it refused our credentials: 535 5\.7\.8 who\?"/);
    await server.logs(/event=end/);
    assert.doesNotMatch(server.stderr(), /wonderland|alice/);
  });

  for (const workers of ['1', '2']) {
    it(`is read again at SIGHUP, and kept if the file is not valid, in ${workers} process(es)`, async (t) => {
      const scene = await open(t, 'tls', { pair }, withWorkers(workers));
      const { server, write } = scene;
      assert.ok((await deliver(t, scene)).includes(plain('wonderland')));
      write('localhost alice\n');
      server.signal('SIGHUP');
      await server.logs(
        /: warning: event=secrets text="unable to use --credentials \S+: line 1: expected .*; keeping the previous keys, certificates and credentials"\n/,
      );
      assert.ok((await deliver(t, scene)).includes(plain('wonderland')));
      write('localhost alice looking-glass\n');
      server.signal('SIGHUP');
      await server.logs(/event=secrets text="loaded new keys, certificates and credentials"/);
      let received = '';
      while (!received.includes(plain('looking-glass'))) received = await deliver(t, scene);
    });
  }

  it('is read again when the file has changed', async (t) => {
    const scene = await open(t, 'tls', { pair });
    scene.write('localhost alice looking-glass\n');
    await scene.server.logs(/event=secrets text="loaded new/);
    assert.ok((await deliver(t, scene)).includes(plain('looking-glass')));
  });

  it('is read as root, when another user serves', { skip: process.getuid?.() !== 0 }, async (t) => {
    const environment = { ...TRUST, ...certificateForAll(t) };
    const scene = await open(t, 'tls', { pair }, ['-u', '65534', '-g', '65534'], environment);
    assert.equal(childrenOf(scene.server.pid).length, 1);
    assert.ok((await deliver(t, scene)).includes(plain('wonderland')));
  });
});

describe('the authorities', { timeout: 60_000 }, () => {
  it('are read again at SIGHUP', async (t) => {
    const folder = mkdtempSync(join(tmpdir(), 'authorities-'));
    t.after(() => rmSync(folder, { recursive: true, force: true }));
    const file = join(folder, 'authorities.pem');
    copyFileSync(certificates.selfSigned('other.example').certFile, file);
    const scene = await open(t, 'tls', { pair }, [], { RELAY_CAFILE: file });
    assert.match((await sendMessage(await connectTo(t, scene.server))) ?? '', /^451 4\.7\.5 .*not verified/);
    copyFileSync(authority.certFile, file);
    scene.server.signal('SIGHUP');
    await scene.server.logs(/event=secrets text="loaded new/);
    assert.ok((await deliver(t, scene)).includes(plain('wonderland')));
  });
});

describe('the metrics of a server by URL', { concurrency: 2, timeout: 60_000 }, () => {
  for (const workers of ['1', '2']) {
    it(`count attempts by URL and result, in ${workers} process(es)`, async (t) => {
      const metrics = await closedPort();
      const more = [...withWorkers(workers), '--metrics', `127.0.0.1:${metrics}`];
      const scene = await open(t, 'tls', { pair }, more);
      const get = async (): Promise<string> => (await fetch(`http://127.0.0.1:${metrics}/metrics`)).text();
      const url = `tls://localhost:${scene.far.port}`;
      const sample = (result: string, count: number): string =>
        `smtpd_starttls_relay_attempts_total{url="${url}",result="${result}"} ${count}\n`;
      const before = await get();
      assert.ok(before.includes(sample('reached', 0)));
      assert.ok(before.includes(sample('no-connection', 0)));
      for (let count = 0; count < 4; count++) await deliver(t, scene);
      assert.ok((await get()).includes(sample('reached', 4)));
      scene.server.signal('SIGUSR1');
      await scene.server.logs(/event=counters .* relay_reached=4 relay_failures=0 /);
    });
  }
});
