/** TLS and AUTH of smtp-relay-io with the server. What each scheme promises: schemes.test.ts. */

import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { type FarServerOptions, startFarServer } from '../support/far-server.ts';
import { sha256OfKey } from '../support/pin.ts';
import { type Relay, sendMessage, startRelay } from '../support/relay.ts';

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

  it('sends a password of any characters as it is in the file', async (t) => {
    const password = 'w\u00f6nder\u2028land\u00a0';
    const [, refusal, tls] = await authenticate(t, {}, `\ufeff# hosts\r\nlocalhost alice ${password}\r\n`);
    assert.equal(refusal, undefined);
    const response = Buffer.from(`\0alice\0${password}`).toString('base64');
    assert.ok(tls.includes(`AUTH PLAIN ${response}\r\n`), tls);
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
    assert.equal(await relay.status, 111);
    assert.match(relay.stderr(), /: it refused our credentials: 535 5\.7\.8 bad password\n/);
  });

  it('that is refused by repeating it is not logged', async (t) => {
    const response = Buffer.from('\0alice\0wonderland').toString('base64');
    const [relay] = await authenticate(
      t,
      { replies: { AUTH: `500 unknown command: AUTH PLAIN ${response} (wonderland)` } },
      'localhost alice wonderland\n',
    );
    await relay.status;
    assert.match(relay.stderr(), /: 500 unknown command: AUTH PLAIN \*\*\* \(\*\*\*\)\n/);
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
