/** The protocol on the control socket: lib/ucspi/control.ts. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  describeTls,
  formatAnswer,
  parseAnswer,
  type TlsVariables,
  tlsEnvironment,
} from '../../../lib/ucspi/control.ts';

function parse(text: string): { variables: [string, string | undefined][]; rest: string } | undefined {
  const answer = parseAnswer(Buffer.from(text));
  return answer && { variables: [...answer.variables], rest: answer.rest.toString() };
}

describe('parseAnswer', () => {
  it('splits strings at the first equals sign', () => {
    assert.deepEqual(parse('SSL_PROTOCOL=TLSv1.3\0SSL_PEER_CERT_SUBJECT=CN=a,O=b\0\0'), {
      variables: [
        ['SSL_PROTOCOL', 'TLSv1.3'],
        ['SSL_PEER_CERT_SUBJECT', 'CN=a,O=b'],
      ],
      rest: '',
    });
  });

  it('distinguishes a name alone from one with an empty value', () => {
    assert.deepEqual(parse('A\0B=\0\0')?.variables, [
      ['A', undefined],
      ['B', ''],
    ]);
  });

  it('parses two NULs as an empty answer', () => {
    assert.deepEqual(parse('\0\0'), { variables: [], rest: '' });
  });

  it('returns the bytes after the answer, including NULs', () => {
    assert.deepEqual(parse('A=1\0\0\0B=2\0\0'), { variables: [['A', '1']], rest: '\0B=2\0\0' });
    assert.deepEqual(parse('\0\0hello'), { variables: [], rest: 'hello' });
  });

  it('finds no end before the second NUL, wherever the answer is cut', () => {
    const whole = Buffer.from('SSL_PROTOCOL=TLSv1.3\0SSL_TLS_SNI_SERVERNAME\0SSL_CIPHER=c\0\0');
    for (let length = 0; length < whole.length; length++) {
      assert.equal(parseAnswer(whole.subarray(0, length)), undefined, `${length} octets`);
    }
    assert.equal(parseAnswer(whole)?.variables.size, 3);
  });

  it('skips strings that cannot be environment variables', () => {
    assert.deepEqual(parse('=x\0A B=1\x001A=2\0__proto__=3\0C=4\0\0')?.variables, [
      ['__proto__', '3'],
      ['C', '4'],
    ]);
  });

  it('keeps values of several lines, such as certificates in PEM', () => {
    const pem = '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n';
    assert.deepEqual(parse(`SSL_CLIENT_CERT=${pem}\0\0`)?.variables, [['SSL_CLIENT_CERT', pem]]);
  });

  it('reads UTF-8', () => {
    assert.deepEqual(parse('S=CN=Jürgen\0\0')?.variables, [['S', 'CN=Jürgen']]);
  });
});

describe('formatAnswer', () => {
  it('ends each string with a NUL, and the answer with one more', () => {
    const variables: TlsVariables = new Map([
      ['SSL_PROTOCOL', 'TLSv1.2'],
      ['SSL_TLS_SNI_SERVERNAME', undefined],
      ['EMPTY', ''],
    ]);
    assert.equal(
      formatAnswer(variables).toString(),
      'SSL_PROTOCOL=TLSv1.2\0SSL_TLS_SNI_SERVERNAME\0EMPTY=\0\0',
    );
  });

  it('writes an empty answer as two NULs', () => {
    assert.equal(formatAnswer(new Map()).toString(), '\0\0');
  });

  it('is the inverse of parseAnswer', () => {
    const variables: TlsVariables = new Map([
      ['A', 'x=y'],
      ['B', undefined],
      ['C', 'ü\n'],
    ]);
    assert.deepEqual(parseAnswer(formatAnswer(variables))?.variables, variables);
  });
});

describe('tlsEnvironment', () => {
  it('adds the variables of mod_ssl to those of s6-ucspitlsd', () => {
    const variables: TlsVariables = new Map([
      ['SSL_PROTOCOL', 'TLSv1.3'],
      ['SSL_TLS_SNI_SERVERNAME', 'a.example'],
      ['SSL_PEER_CERT_SUBJECT', 'CN=b'],
    ]);
    assert.deepEqual(tlsEnvironment(variables), {
      SSL_PROTOCOL: 'TLSv1.3',
      SSL_TLS_SNI_SERVERNAME: 'a.example',
      SSL_TLS_SNI: 'a.example',
      SSL_PEER_CERT_SUBJECT: 'CN=b',
      SSL_CLIENT_S_DN: 'CN=b',
    });
  });

  it('keeps the variables of mod_ssl that the server sends', () => {
    const variables: TlsVariables = new Map([
      ['SSL_TLS_SNI', 'theirs'],
      ['SSL_TLS_SNI_SERVERNAME', 'other'],
    ]);
    assert.equal(tlsEnvironment(variables).SSL_TLS_SNI, 'theirs');
  });

  it('has unknown values under both names, so that neither is inherited', () => {
    const environment = tlsEnvironment(new Map([['SSL_PEER_CERT_SUBJECT', undefined]]));
    assert.deepEqual(Object.entries(environment), [
      ['SSL_PEER_CERT_SUBJECT', undefined],
      ['SSL_CLIENT_S_DN', undefined],
    ]);
  });
});

describe('describeTls', () => {
  it('includes known values', () => {
    const variables: TlsVariables = new Map([
      ['SSL_PROTOCOL', 'TLSv1.3'],
      ['SSL_CIPHER', 'TLS_AES_128_GCM_SHA256'],
      ['SSL_TLS_SNI_SERVERNAME', 'a.example'],
      ['SSL_PEER_CERT_SUBJECT', 'CN=b'],
    ]);
    assert.equal(
      describeTls(variables),
      'TLSv1.3, TLS_AES_128_GCM_SHA256, SNI "a.example", client certificate "CN=b"',
    );
  });

  it('reads the variables of mod_ssl too', () => {
    const variables: TlsVariables = new Map([
      ['SSL_TLS_SNI', 'a.example'],
      ['SSL_CLIENT_S_DN', 'CN=b'],
    ]);
    assert.equal(
      describeTls(variables),
      'unknown protocol, unknown cipher, SNI "a.example", client certificate "CN=b"',
    );
  });

  it('marks unknown values', () => {
    assert.equal(describeTls(new Map()), 'unknown protocol, unknown cipher, no SNI, no client certificate');
  });
});
