/** Keys and certificates by name: lib/tls/credentials.ts. Messages about bad files: test/ucspi-tlsd/refusals.test.ts. */

import assert from 'node:assert/strict';
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import {
  credentialPaths,
  credentialsFor,
  readCredentials,
  withoutTlsVariables,
} from '../../../lib/tls/credentials.ts';
import { type CertificateMaker, makeCertificates, type Pair } from '../../support/certificate.ts';

describe('credentialsFor', () => {
  const names = ['mail.example.org', '*.example.org', '*.a.example.org', 'xn--bcher-kva.example', '*'];
  const byName = new Map(names.map((name) => [name, name]));

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
      assert.equal(credentialsFor(byName, asked), found);
    });
  }
});

describe('readCredentials', () => {
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
    const { standard, byName } = readCredentials(environment, { sniLevel, asksClients: false });
    return { standard: standard.length > 0, byName: Object.keys(byName).sort() };
  }

  it('reads only the plain pair at level 0', () => {
    assert.deepEqual(names(0, { ...plain, ...named }), { standard: true, byName: [] });
  });

  it('reads all pairs at level 1', () => {
    const expected = { standard: true, byName: ['*.b.example', 'a.example'] };
    assert.deepEqual(names(1, { ...plain, ...named }), expected);
  });

  it('reads the plain pair at level 1 without pairs by name', () => {
    assert.deepEqual(names(1, plain), { standard: true, byName: [] });
  });

  it('reads only the pairs by name at level 2 and above', () => {
    const expected = { standard: false, byName: ['*.b.example', 'a.example'] };
    assert.deepEqual(names(2, { ...plain, ...named }), expected);
    assert.deepEqual(names(9, named), expected);
  });

  it('prefers CAFILE to CADIR', () => {
    const environment = { ...plain, CAFILE: plain.CERTFILE, CADIR: '/nonexistent' };
    const { authorities } = readCredentials(environment, { sniLevel: 0, asksClients: true });
    assert.equal(authorities.length, 1);
  });

  it('returns data that JSON preserves', () => {
    const environment = { ...plain, ...named, CAFILE: plain.CERTFILE };
    const files = readCredentials(environment, { sniLevel: 1, asksClients: true });
    assert.deepEqual(JSON.parse(JSON.stringify(files)), files);
  });

  it('returns PEM for files in DER', () => {
    const { CERTFILE = '', KEYFILE = '' } = plain;
    const [certificate, key] = [join(certificates.folder, 'c.der'), join(certificates.folder, 'k.der')];
    writeFileSync(certificate, new X509Certificate(readFileSync(CERTFILE)).raw);
    writeFileSync(key, createPrivateKey(readFileSync(KEYFILE)).export({ type: 'sec1', format: 'der' }));
    const options = { sniLevel: 0, asksClients: false };
    const ofDer = readCredentials({ CERTFILE: certificate, KEYFILE: key }, options).standard[0];
    assert.equal(ofDer?.certificate, readFileSync(CERTFILE, 'latin1'));
    assert.equal(ofDer?.key, readFileSync(KEYFILE, 'latin1'));
  });
});

describe('pairs of several key types', () => {
  let certificates: CertificateMaker;
  let ec: Pair;
  let otherEc: Pair;
  let rsa: Pair;
  before(() => {
    certificates = makeCertificates();
    ec = certificates.selfSigned('ec');
    otherEc = certificates.selfSigned('p384', ['ec', '-pkeyopt', 'ec_paramgen_curve:P-384']);
    rsa = certificates.selfSigned('rsa', ['rsa:2048']);
  });
  after(() => certificates.remove());

  function variables(pairs: Readonly<Record<string, Pair>>): NodeJS.ProcessEnv {
    const entries = Object.entries(pairs).flatMap(([suffix, { certFile, keyFile }]) => [
      [`CERTFILE${suffix}`, certFile],
      [`KEYFILE${suffix}`, keyFile],
    ]);
    return Object.fromEntries(entries);
  }

  function names(pairs: readonly { readonly certificate: string }[] | undefined): string[] | undefined {
    return pairs?.map(({ certificate }) => new X509Certificate(certificate).subject.replace('CN=', ''));
  }

  const all = { sniLevel: 1, asksClients: false };

  it('are read, plain and by name', () => {
    const environment = variables({ '': ec, '2': rsa, ':a.example': rsa, '9:a.example': otherEc });
    const { standard, byName } = readCredentials(environment, all);
    assert.deepEqual(names(standard), ['ec', 'rsa']);
    assert.deepEqual(Object.keys(byName), ['a.example']);
    assert.deepEqual(names(byName['a.example']), ['rsa', 'p384']);
  });

  it('by name are ignored at level 0', () => {
    const environment = { ...variables({ '': ec }), 'KEYFILE2:a.example': '/nonexistent' };
    assert.deepEqual(readCredentials(environment, { ...all, sniLevel: 0 }).byName, {});
  });

  for (const [what, environment, message] of [
    [
      'with keys of the same type but different curves',
      () => variables({ '': ec, '2': rsa, '3': otherEc }),
      () => `KEYFILE ${ec.keyFile} and KEYFILE3 ${otherEc.keyFile} are keys of the same type (ec)`,
    ],
    [
      'with keys of the same type for a name',
      () => variables({ '': ec, ':a': rsa, '2:a': rsa }),
      () => `KEYFILE:a ${rsa.keyFile} and KEYFILE2:a ${rsa.keyFile} are keys of the same type (rsa)`,
    ],
    [
      'with a certificate but no key',
      () => ({ ...variables({ '': ec }), CERTFILE2: rsa.certFile }),
      () => 'KEYFILE2 is not set',
    ],
    [
      'without the first pair of a name',
      () => ({ ...variables({ '': ec }), 'KEYFILE2:a': rsa.keyFile }),
      () => 'CERTFILE:a is not set',
    ],
    [
      'with the key of another certificate',
      () => variables({ '': ec, '2': { certFile: rsa.certFile, keyFile: ec.keyFile } }),
      () => `KEYFILE2 ${ec.keyFile} is not the key of CERTFILE2 ${rsa.certFile}`,
    ],
  ] as const) {
    it(`are refused ${what}`, () => {
      assert.throws(() => readCredentials(environment(), all), {
        status: 100,
        message: `unable to set up TLS: ${message()}`,
      });
    });
  }
});

describe('credentialPaths', () => {
  it('returns the paths of the files that are read, and no others', () => {
    const environment = {
      ...{ CERTFILE: 'c', KEYFILE: 'k', CERTFILE2: 'c2', KEYFILE2: 'k2' },
      ...{ 'CERTFILE:a': 'ca', 'KEYFILE:a': 'ka', CAFILE: 'authorities' },
    };
    const paths = (sniLevel: number, asksClients: boolean): string[] =>
      credentialPaths(environment, { sniLevel, asksClients });
    assert.deepEqual(paths(0, false), ['c', 'k', 'c2', 'k2']);
    assert.deepEqual(paths(1, false), ['c', 'k', 'c2', 'k2', 'ca', 'ka']);
    assert.deepEqual(paths(2, false), ['ca', 'ka']);
    assert.ok(paths(0, true).includes('authorities'));
  });

  it('returns CADIR and the files in it', (t) => {
    const { folder, remove } = makeCertificates();
    t.after(remove);
    writeFileSync(join(folder, 'a.pem'), '');
    writeFileSync(join(folder, '.hidden'), '');
    const environment = { CERTFILE: 'c', KEYFILE: 'k', CADIR: folder };
    const paths = credentialPaths(environment, { sniLevel: 0, asksClients: true });
    assert.deepEqual(paths, ['c', 'k', folder, join(folder, 'a.pem')]);
  });
});

describe('withoutTlsVariables', () => {
  it('removes the variables meant only for a TLS server, and no others', () => {
    const tls = [
      'KEYFILE',
      'CERTFILE',
      'KEYFILE:a',
      'CERTFILE:*.b\n',
      'KEYFILE2',
      'CERTFILE9:a',
      'CADIR',
      'CAFILE',
      'TLS_UID',
      'TLS_GID',
    ];
    const others = [
      'PATH',
      'KEYFILES',
      'KEYFILE1',
      'CERTFILE22',
      'XKEYFILE',
      'CAFILE:a',
      'TLS_UIDS',
      'SSL_PROTOCOL',
      'TCPREMOTEIP',
    ];
    const environment = Object.fromEntries([...tls, ...others].map((name) => [name, 'x']));
    assert.deepEqual(Object.keys(withoutTlsVariables(environment)), others);
  });
});
