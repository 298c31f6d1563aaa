/** Keys and certificates by name: lib/tls/credentials.ts. What it says of bad files, ucspi-tlsd's tests show. */

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { createSecureContext, type SecureContext } from 'node:tls';
import {
  type Credentials,
  credentialsFor,
  loadCredentials,
  withoutTlsVariables,
} from '../lib/tls/credentials.ts';
import { type CertificateMaker, makeCertificates, type Pair } from './support/certificate.ts';

describe('credentialsFor', () => {
  const contexts = new Map<string, SecureContext>();
  for (const name of ['mail.example.org', '*.example.org', '*.a.example.org', 'xn--bcher-kva.example', '*']) {
    contexts.set(name, createSecureContext());
  }
  const credentials: Credentials = { standard: undefined, byName: contexts };

  for (const [asked, found] of [
    ['mail.example.org', 'mail.example.org'],
    ['Mail.EXAMPLE.org', 'mail.example.org'],
    ['other.example.org', '*.example.org'],
    ['OTHER.example.org', '*.example.org'],
    ['b.a.example.org', '*.a.example.org'],
    ['c.b.a.example.org', undefined],
    ['c.b.example.org', undefined],
    ['example.org', undefined],
    ['.example.org', undefined],
    ['other.example.org.evil.example', undefined],
    ['xn--bcher-kva.example', 'xn--bcher-kva.example'],
    ['localhost', '*'],
    ['__proto__', '*'],
    ['', undefined],
  ] as const) {
    it(`finds ${found ?? 'nothing'} for "${asked}"`, () => {
      const expected = found === undefined ? undefined : contexts.get(found);
      assert.equal(credentialsFor(credentials, asked), expected);
    });
  }
});

describe('loadCredentials', () => {
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
    const pair = certificates.selfSigned('named');
    named = { ...variables(':A.example', pair), ...variables(':*.B.example', pair) };
  });
  after(() => certificates.remove());

  function names(sniLevel: number, environment: NodeJS.ProcessEnv): { standard: boolean; byName: string[] } {
    const { standard, byName } = loadCredentials(environment, { sniLevel, asksClients: false });
    return { standard: standard !== undefined, byName: [...byName.keys()].sort() };
  }

  it('reads the plain pair alone at level 0', () => {
    assert.deepEqual(names(0, { ...plain, ...named }), { standard: true, byName: [] });
  });

  it('reads all at level 1', () => {
    const expected = { standard: true, byName: ['*.b.example', 'a.example'] };
    assert.deepEqual(names(1, { ...plain, ...named }), expected);
  });

  it('reads the plain pair at level 1 though there is none by name', () => {
    assert.deepEqual(names(1, plain), { standard: true, byName: [] });
  });

  it('reads those by name alone at level 2 and above', () => {
    const expected = { standard: false, byName: ['*.b.example', 'a.example'] };
    assert.deepEqual(names(2, { ...plain, ...named }), expected);
    assert.deepEqual(names(9, named), expected);
  });

  it('takes CAFILE before CADIR', () => {
    const environment = { ...plain, CAFILE: plain.CERTFILE, CADIR: '/nonexistent' };
    const { standard } = loadCredentials(environment, { sniLevel: 0, asksClients: true });
    assert.equal(standard?.ca?.length, 1);
  });
});

describe('withoutTlsVariables', () => {
  it('leaves out what is for a TLS server alone, and nothing else', () => {
    const tls = [
      'KEYFILE',
      'CERTFILE',
      'KEYFILE:a',
      'CERTFILE:*.b\n',
      'CADIR',
      'CAFILE',
      'TLS_UID',
      'TLS_GID',
    ];
    const others = ['PATH', 'KEYFILES', 'XKEYFILE', 'CAFILE:a', 'TLS_UIDS', 'SSL_PROTOCOL', 'TCPREMOTEIP'];
    const environment = Object.fromEntries([...tls, ...others].map((name) => [name, 'x']));
    assert.deepEqual(Object.keys(withoutTlsVariables(environment)), others);
  });
});
