/** The certificate that a client gets, by server name (SNI). */

import assert from 'node:assert/strict';
import { after, before, describe, it, type TestContext } from 'node:test';
import { type CertificateMaker, makeCertificates, type Pair } from '../support/certificate.ts';
import { runTlsd } from '../support/controlled-program.ts';
import { startTls } from '../support/tls-client.ts';

describe('the certificate that ucspi-tlsd sends', { concurrency: 4, timeout: 60_000 }, () => {
  let certificates: CertificateMaker;
  let plain: NodeJS.ProcessEnv;
  let named: NodeJS.ProcessEnv;
  before(() => {
    certificates = makeCertificates();
    const variables = (suffix: string, { certFile, keyFile }: Pair): NodeJS.ProcessEnv => ({
      [`CERTFILE${suffix}`]: certFile,
      [`KEYFILE${suffix}`]: keyFile,
    });
    plain = variables('', certificates.selfSigned('plain'));
    named = {
      ...variables(':mail.example.org', certificates.selfSigned('exact')),
      ...variables(':*.example.org', certificates.selfSigned('wildcard')),
      ...variables(':MX.Example.Net', certificates.selfSigned('capitals', ['rsa:2048'])),
    };
  });
  after(() => certificates.remove());

  /** The name in the certificate that a client gets for a server name. */
  async function shownTo(
    t: TestContext,
    level: string[],
    environment: NodeJS.ProcessEnv,
    servername: string,
  ): Promise<string> {
    const { client, program } = await runTlsd(t, { options: level, environment });
    await program.write('control', 'y');
    const tls = await startTls(client, { servername });
    return String(tls.getPeerCertificate().subject.CN);
  }

  it('is that of KEYFILE and CERTFILE for all clients, without -k', async (t) => {
    assert.equal(await shownTo(t, [], { ...plain, ...named }, 'mail.example.org'), 'plain');
  });

  it('is that of KEYFILE and CERTFILE for all clients at level 0', async (t) => {
    assert.equal(await shownTo(t, ['-k', '0'], { ...plain, ...named }, 'mail.example.org'), 'plain');
  });

  for (const [asked, shown] of [
    ['mail.example.org', 'exact'],
    ['MAIL.example.ORG', 'exact'],
    ['mx.example.net', 'capitals'],
    ['other.example.org', 'wildcard'],
    ['deep.other.example.org', 'plain'],
    ['example.org', 'plain'],
    ['unknown.example', 'plain'],
    ['', 'plain'],
  ] as const) {
    it(`is "${shown}" at level 1 for a client that requests "${asked}"`, async (t) => {
      assert.equal(await shownTo(t, ['-k1'], { ...plain, ...named }, asked), shown);
    });
  }

  it('needs no plain pair at level 2', async (t) => {
    assert.equal(await shownTo(t, ['-k', '2'], named, 'mail.example.org'), 'exact');
  });

  it('is never that of a plain pair at level 2, which is not even read', async (t) => {
    const environment = { ...named, KEYFILE: '/nonexistent', CERTFILE: '/nonexistent' };
    assert.equal(await shownTo(t, ['-k', '2'], environment, 'a.example.org'), 'wildcard');
  });

  for (const servername of ['unknown.example', '']) {
    it(`is none at level 2 for a client that requests "${servername}", which gets an alert`, async (t) => {
      const { client, tlsd, program } = await runTlsd(t, {
        options: ['-k2'],
        environment: { ...plain, ...named },
      });
      const refused = assert.rejects(startTls(client, { servername }), /alert handshake failure/);
      await program.write('control', 'Y');
      await refused;
      assert.equal((await program.readAll('control')).length, 0);
      await tlsd.logs(/unable to start TLS with 127\.0\.0\.1: /);
    });
  }
});
