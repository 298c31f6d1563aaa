/** What keeps ucspi-tlsd from starting its program, and how it message so. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { type CertificateMaker, makeCertificates, type Pair } from '../support/certificate.ts';
import { ours } from '../support/programs.ts';
import { run } from '../support/real.ts';

let certificates: CertificateMaker;
let pair: Pair;
let environment: NodeJS.ProcessEnv;
before(() => {
  certificates = makeCertificates();
  pair = certificates.selfSigned('mail.example.org');
  environment = { CERTFILE: pair.certFile, KEYFILE: pair.keyFile };
});
after(() => certificates.remove());

/** Makes a file of certificates and keys. */
function file(name: string, content: string | Uint8Array): string {
  const path = join(certificates.folder, name);
  writeFileSync(path, content);
  return path;
}

function fifo(): string {
  const path = join(certificates.folder, 'fifo');
  execFileSync('mkfifo', [path]);
  return path;
}

function openssl(...args: string[]): Buffer {
  return execFileSync('openssl', args, { stdio: 'pipe' });
}

describe('ucspi-tlsd refuses to start', { concurrency: 4, timeout: 60_000 }, () => {
  interface Refusal {
    readonly what: string;
    readonly options?: readonly string[];
    readonly variables: () => NodeJS.ProcessEnv;
    readonly status?: number;
    /** The line on stderr after "fatal: "; "{NAME}" stands for a variable and its file. */
    readonly message: string;
  }

  const encrypted = (form: string): string => {
    const args = ['pkcs8', '-topk8', '-in', pair.keyFile, '-passout', 'pass:secret', '-outform', form];
    return file(`encrypted.${form}`, openssl(...args));
  };
  const refusals: readonly Refusal[] = [
    {
      what: 'without KEYFILE',
      variables: () => ({ CERTFILE: pair.certFile }),
      message: 'unable to set up TLS: KEYFILE is not set',
    },
    {
      what: 'without CERTFILE',
      variables: () => ({ KEYFILE: pair.keyFile }),
      message: 'unable to set up TLS: CERTFILE is not set',
    },
    {
      what: 'with KEYFILE empty',
      variables: () => ({ ...environment, KEYFILE: '' }),
      message: 'unable to set up TLS: KEYFILE is not set',
    },
    {
      what: 'with a missing key file',
      variables: () => ({ ...environment, KEYFILE: '/nonexistent/key' }),
      status: 111,
      message: 'unable to read {KEYFILE}: ENOENT (no such file, or a link to one that does not exist)',
    },
    {
      what: 'with a missing certificate file',
      variables: () => ({ ...environment, CERTFILE: '/nonexistent/certificate' }),
      status: 111,
      message: 'unable to read {CERTFILE}: ENOENT (no such file, or a link to one that does not exist)',
    },
    {
      what: 'with a folder as a certificate',
      variables: () => ({ ...environment, CERTFILE: '/' }),
      message: 'unable to read {CERTFILE}: not a regular file',
    },
    {
      what: 'with a FIFO for a key, which nobody writes to',
      variables: () => ({ ...environment, KEYFILE: fifo() }),
      message: 'unable to read {KEYFILE}: not a regular file',
    },
    {
      what: 'with a certificate file that holds none',
      variables: () => ({ ...environment, CERTFILE: file('text', 'no certificate\n') }),
      message: 'unable to set up TLS: {CERTFILE} contains no readable certificate: ERR_* (it is not in PEM)',
    },
    {
      what: 'with an empty certificate file',
      variables: () => ({ ...environment, CERTFILE: file('empty', '') }),
      message: 'unable to set up TLS: {CERTFILE} contains no readable certificate: *',
    },
    {
      what: 'with a truncated certificate',
      variables: () => ({
        ...environment,
        CERTFILE: file('cut', readFileSync(pair.certFile).subarray(0, 300)),
      }),
      message: 'unable to set up TLS: {CERTFILE} contains no readable certificate: ERR_*',
    },
    {
      what: 'with a certificate as a key',
      variables: () => ({ ...environment, KEYFILE: pair.certFile }),
      message:
        'unable to set up TLS: {KEYFILE} contains no readable private key: ERR_* (it contains CERTIFICATE)',
    },
    {
      what: 'with a key as a certificate',
      variables: () => ({ ...environment, CERTFILE: pair.keyFile }),
      message:
        'unable to set up TLS: {CERTFILE} contains no readable certificate: ERR_* (it contains PRIVATE KEY)',
    },
    {
      what: 'with a key file that holds none',
      variables: () => ({ ...environment, KEYFILE: file('no-key', 'no key\n') }),
      message: 'unable to set up TLS: {KEYFILE} contains no readable private key: *',
    },
    {
      what: 'with an encrypted key',
      variables: () => ({ ...environment, KEYFILE: encrypted('PEM') }),
      message: 'unable to set up TLS: {KEYFILE} contains no readable private key: it is encrypted',
    },
    {
      what: 'with an encrypted key in DER',
      variables: () => ({ ...environment, KEYFILE: encrypted('DER') }),
      message: 'unable to set up TLS: {KEYFILE} contains no readable private key: *',
    },
    {
      what: 'with the key of another certificate',
      variables: () => ({ ...environment, KEYFILE: certificates.selfSigned('other').keyFile }),
      message: 'unable to set up TLS: {KEYFILE} is not the key of {CERTFILE}',
    },
    {
      what: 'with a key that is too small',
      variables: () => {
        const { certFile, keyFile } = certificates.selfSigned('small', ['rsa:512']);
        return { CERTFILE: certFile, KEYFILE: keyFile };
      },
      message:
        'unable to set up TLS: {CERTFILE} cannot be used: ERR_SSL_EE_KEY_TOO_SMALL: ' +
        'the certificate has an RSA key of 512 bits, fewer than 2048',
    },
    {
      what: 'with a missing certificate by name',
      options: ['-k1'],
      variables: () => ({ ...environment, 'KEYFILE:a.example': pair.keyFile }),
      message: 'unable to set up TLS: CERTFILE:a.example is not set',
    },
    {
      what: 'with the key of another certificate by name',
      options: ['-k1'],
      variables: () => ({
        ...environment,
        'KEYFILE:a.example': certificates.selfSigned('other').keyFile,
        'CERTFILE:a.example': pair.certFile,
      }),
      message: 'unable to set up TLS: {KEYFILE:a.example} is not the key of {CERTFILE:a.example}',
    },
    {
      what: 'at level 2 with no certificate by name',
      options: ['-k2'],
      variables: () => environment,
      message: 'unable to set up TLS: no variable KEYFILE:name is set',
    },
    ...['-Y', '-y'].flatMap((option): Refusal[] => [
      {
        what: `with ${option} and neither CAFILE nor CADIR`,
        options: [option],
        variables: () => environment,
        message: 'unable to set up TLS: CADIR is not set',
      },
    ]),
    {
      what: 'with a missing CAFILE',
      options: ['-y'],
      variables: () => ({ ...environment, CAFILE: '/nonexistent/ca' }),
      status: 111,
      message: 'unable to read {CAFILE}: ENOENT (no such file, or a link to one that does not exist)',
    },
    {
      what: 'with a CAFILE that holds no certificate',
      options: ['-y'],
      variables: () => ({ ...environment, CAFILE: file('no-ca', 'nobody\n') }),
      message: 'unable to set up TLS: {CAFILE} contains no readable certificate: *',
    },
    {
      what: 'with a missing CADIR',
      options: ['-y'],
      variables: () => ({ ...environment, CADIR: '/nonexistent' }),
      status: 111,
      message: 'unable to read {CADIR}: ENOENT (no such file, or a link to one that does not exist)',
    },
    {
      what: 'with a TLS_UID that is not a number',
      variables: () => ({ ...environment, TLS_UID: 'nobody' }),
      message: 'usage error: TLS_UID is not a number: nobody',
    },
    {
      what: 'with a TLS_GID that is not a number',
      variables: () => ({ ...environment, TLS_GID: '-1' }),
      message: 'usage error: TLS_GID is not a number: -1',
    },
    {
      what: 'with an unknown option',
      options: ['-q'],
      variables: () => environment,
      message: 'usage error: *-q*',
    },
    {
      what: 'with a level that is not a number',
      options: ['-k', 'one'],
      variables: () => environment,
      message: 'usage error: -k takes a whole number from 0 to 2, not one',
    },
    {
      what: 'with a negative handshake timeout',
      options: ['-K', '-5'],
      variables: () => environment,
      message: 'usage error: *-K*',
    },
    {
      what: 'with --alpn and no protocol',
      options: ['--alpn='],
      variables: () => environment,
      message: 'usage error: --alpn takes the name of a protocol',
    },
    ...['S', 'J', 'Y', 'Z'].map((letter): Refusal => {
      const other = letter.toLowerCase();
      return {
        what: `with both -${letter} and -${other}`,
        options: [`-${letter}`, `-${other}`],
        variables: () => environment,
        message: `usage error: -${letter} and -${other} contradict each other`,
      };
    }),
  ];

  for (const { what, options = [], variables, status = 100, message } of refusals) {
    it(`${what}, message why, and does not start the program`, async () => {
      const given = variables();
      const command = [ours('ucspi-tlsd'), ...options, 'sh', '-c', 'echo started'];
      const outcome = await run(command, { environment: given });
      assert.match(outcome.stderr, lineOf(message, given));
      assert.equal(outcome.status, status);
      assert.equal(outcome.stdout, '');
    });
  }

  it('without a program to run', async () => {
    const { status, stderr } = await run([ours('ucspi-tlsd'), '-S'], { environment });
    assert.equal(stderr, 'ucspi-tlsd: fatal: usage error: missing program\n');
    assert.equal(status, 100);
  });

  function lineOf(message: string, given: NodeJS.ProcessEnv): RegExp {
    const text = message
      .replaceAll(/\{(.*?)\}/g, (_, name: string) => `${name} ${given[name]}`)
      .replaceAll(/[.()\\/]/g, '\\$&')
      .replaceAll('*', '[ -~]+');
    return new RegExp(`^ucspi-tlsd: fatal: ${text}\n$`);
  }
});
