/** Hosts with ports, Unix sockets and services. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import {
  formatHostPort,
  formatServerAddress,
  listenHost,
  parseEndpoint,
  parseHostPort,
  parsePort,
  parseServerAddress,
} from '../../../lib/net/host-port.ts';
import { assertWrongUsage } from '../../support/wrong-usage.ts';

describe('parseHostPort', () => {
  const cases: readonly (readonly [text: string, host: string, port: number])[] = [
    ['127.0.0.1:25', '127.0.0.1', 25],
    ['0:25', '0', 25],
    ['[::1]:25', '::1', 25],
    ['[::]:0', '::', 0],
    ['[fe80::1%eth0]:587', 'fe80::1%eth0', 587],
    ['localhost:smtp', 'localhost', 25],
    ['mx-1.example.org:65535', 'mx-1.example.org', 65535],
    ['mx.example.org.:lmtp', 'mx.example.org.', 24],
    ['3com.example:25', '3com.example', 25],
  ];
  for (const [text, host, port] of cases) {
    it(text, () => assert.deepEqual(parseHostPort(text), { host, port }));
  }

  for (const text of [
    '',
    ':',
    ':25',
    '25',
    'localhost',
    'localhost:',
    '::1:25',
    '::',
    '[::1]',
    '[::1]:',
    '[::1]25',
    '[]:25',
    '[127.0.0.1]:25',
    '[localhost]:25',
    '::1]:25',
    '192.0.2.256:25',
    '10.1:25',
    '127.0.0.1:25:26',
    ' localhost:25',
    'local host:25',
    'local\nhost:25',
    'localhost/:25',
    '.example:25',
    'mx..example:25',
    `${'a'.repeat(64)}.example:25`,
    `${'a.'.repeat(127)}:25`,
  ]) {
    it(`refuses ${JSON.stringify(text.slice(0, 40))}`, () =>
      assertWrongUsage(() => parseHostPort(text), '"'));
  }

  it('quotes its input in the message', () => {
    assertWrongUsage(() => parseHostPort('::1:25'), 'as [::1]:25, not "::1:25"');
    assertWrongUsage(() => parseHostPort('[::1]:66666'), '0 to 65535, not "66666"');
    assertWrongUsage(() => parseHostPort('a\nb:25'), '"a\\nb:25"');
  });
});

describe('parseEndpoint', () => {
  const valid: readonly (readonly [text: string, ip: string, port: number])[] = [
    ['192.0.2.1', '192.0.2.1', 53],
    ['192.0.2.1:5353', '192.0.2.1', 5353],
    ['2001:db8::1', '2001:db8::1', 53],
    ['2001:db8::1:5353', '2001:db8::1:5353', 53],
    ['[2001:db8::1]', '2001:db8::1', 53],
    ['[::1]:65535', '::1', 65535],
  ];
  for (const [text, ip, port] of valid) {
    it(text, () => assert.deepEqual(parseEndpoint(text, 53), { ip, port }));
  }

  const invalid = [
    ...[
      '',
      ':53',
      'dns.example',
      'dns.example:53',
      '192.0.2.256',
      '192.0.2.1:',
      '192.0.2.1:0',
      '192.0.2.1:65536',
    ],
    ...[
      '192.0.2.1:domain',
      '192.0.2.1:053535',
      '[192.0.2.1]:53',
      '[::1',
      '::1]',
      '[::1]53',
      '[::1]:',
      '[]:53',
    ],
    ...[
      'fe80::1%eth0',
      '[fe80::1%eth0]:53',
      ' 192.0.2.1',
      '192.0.2.1\n',
      '192.0.2.1,192.0.2.2',
      '0',
      '127.1',
    ],
  ];
  for (const text of invalid) {
    it(`${JSON.stringify(text)} is invalid`, () => assert.equal(parseEndpoint(text, 53), undefined));
  }
});

describe('formatHostPort', () => {
  const cases: readonly (readonly [host: string, port: number, text: string])[] = [
    ['192.0.2.1', 25, '192.0.2.1:25'],
    ['::1', 9, '[::1]:9'],
    ['fe80::1%eth0', 587, '[fe80::1%eth0]:587'],
    ['mx.example', 65535, 'mx.example:65535'],
  ];
  for (const [host, port, text] of cases) {
    it(`writes ${text}, which parseHostPort reads`, () => {
      assert.equal(formatHostPort(host, port), text);
      assert.deepEqual(parseHostPort(text), { host, port });
    });
  }
});

describe('listenHost', () => {
  const cases: readonly (readonly [host: string, listen: string])[] = [
    ['0', '0.0.0.0'],
    ['0.0.0.0', '0.0.0.0'],
    ['::', '::'],
    ['::1', '::1'],
    ['fe80::1%eth0', 'fe80::1%eth0'],
    ['127.0.0.1', '127.0.0.1'],
    ['localhost', 'localhost'],
  ];
  for (const [host, listen] of cases) {
    it(`${host} -> ${listen}`, () => assert.equal(listenHost(host), listen));
  }
  for (const host of ['', ' ', '*', '00', '1', '127.1', '192.0.2.256', '[::1]', 'localhost:25', 'a b']) {
    it(`refuses ${JSON.stringify(host)}`, () =>
      assertWrongUsage(() => listenHost(host), `not ${JSON.stringify(host)}`));
  }
});

describe('parseServerAddress', () => {
  const longest = 'x'.repeat(107);
  for (const [text, address] of [
    ['127.0.0.1:25', { host: '127.0.0.1', port: 25 }],
    ['[::1]:25', { host: '::1', port: 25 }],
    ['localhost:smtp', { host: 'localhost', port: 25 }],
    ['unix:/run/smtpd', { path: '/run/smtpd' }],
    ['unix:smtpd', { path: 'smtpd' }],
    ['unix:25', { path: '25' }],
    ['unix:/run/a b:25', { path: '/run/a b:25' }],
    [`unix:${longest}`, { path: longest }],
    [`unix:${'é'.repeat(53)}`, { path: 'é'.repeat(53) }],
  ] as const) {
    it(`reads and writes ${text}`, () => {
      assert.deepEqual(parseServerAddress(text), address);
      if (!text.endsWith(':smtp')) assert.equal(formatServerAddress(address), text);
    });
  }

  it('takes 0 for all addresses of this machine', () => {
    assert.deepEqual(parseServerAddress('0:25'), { host: '0.0.0.0', port: 25 });
  });

  for (const text of [
    'unix:',
    `unix:${longest}x`,
    `unix:${'é'.repeat(54)}`,
    '/run/smtpd',
    './smtpd',
    'UNIX:/run/smtpd',
    '127.0.0.1',
    '::1:25',
    '',
  ]) {
    it(`refuses ${text || 'nothing'}`, () =>
      assertWrongUsage(() => parseServerAddress(text), JSON.stringify(text)));
  }
});

describe('parsePort', () => {
  const folder = mkdtempSync(join(tmpdir(), 'services-'));
  after(() => rmSync(folder, { recursive: true }));
  const services = join(folder, 'services');
  writeFileSync(
    services,
    [
      '# made for this test',
      'finger\t\t79/tcp',
      'domain 53/udp',
      'domain 5353/tcp nameserver  dns # names',
      'tftp 69/udp',
      'smtp 26/tcp',
      '#gopher 70/tcp',
      'toobig 65536/tcp',
      'odd 12a/tcp',
      'bare',
      'toobig 99/tcp',
      'last 65535/tcp',
    ].join('\n'),
  );
  const missing = join(folder, 'missing');

  for (const [text, port] of [
    ['0', 0],
    ['25', 25],
    ['65535', 65535],
    ['smtp', 25],
    ['smtps', 465],
    ['submissions', 465],
    ['submission', 587],
    ['lmtp', 24],
  ] as const) {
    it(`${text} is ${port}, without a file`, () => assert.equal(parsePort(text, missing), port));
  }

  for (const [text, port] of [
    ['finger', 79],
    ['domain', 5353],
    ['nameserver', 5353],
    ['dns', 5353],
    ['toobig', 99],
    ['last', 65535],
    // The mail services are the same on every machine.
    ['smtp', 25],
  ] as const) {
    it(`${text} is ${port}, by the file`, () => assert.equal(parsePort(text, services), port));
  }

  for (const text of [
    '',
    ' 25',
    '25 ',
    '-1',
    '+25',
    '2.5',
    '1e3',
    '0x19',
    'SMTP',
    'tftp',
    'gopher',
    '#gopher',
    '#',
    'names',
    'odd',
    'bare',
    '79/tcp',
    'constructor',
  ]) {
    it(`refuses ${JSON.stringify(text)}`, () =>
      assertWrongUsage(() => parsePort(text, services), `${services}, not ${JSON.stringify(text)}`));
  }

  for (const text of ['65536', '99999999999999999999']) {
    it(`refuses ${text}`, () => assertWrongUsage(() => parsePort(text, services), `65535, not "${text}"`));
  }

  it('reports that the file cannot be read', () => {
    assertWrongUsage(() => parsePort('finger', missing), `not "finger": ENOENT at ${missing}`);
  });
});
