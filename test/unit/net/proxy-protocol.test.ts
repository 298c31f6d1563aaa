/** Headers of the PROXY protocol, parsed and formatted: bytes in, addresses out, and back. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Endpoint } from '../../../lib/net/address.ts';
import type { Endpoints } from '../../../lib/net/endpoints.ts';
import {
  PROXY_V1_LIMIT,
  PROXY_V2_LIMIT,
  type ProxyParse,
  parseProxyHeader,
} from '../../../lib/net/proxy-protocol/receive.ts';
import { formatProxyV1, formatProxyV2, type ProxyTls } from '../../../lib/net/proxy-protocol/send.ts';
import { createRandom, type Random } from '../../fuzz/random.ts';

const SIGNATURE = '0d 0a 0d 0a 00 0d 0a 51 55 49 54 0a';

/** Converts hexadecimal digits to bytes; spaces are ignored. */
function hex(...parts: readonly string[]): Buffer {
  const digits = parts.join('').replaceAll(' ', '');
  const bytes = Buffer.from(digits, 'hex');
  assert.equal(bytes.length * 2, digits.length, 'a slip in a vector');
  return bytes;
}

function latin1(text: string): Buffer {
  return Buffer.from(text, 'latin1');
}

/** "192.0.2.1 1234 198.51.100.2 25": the client and the address that it connected to. */
function addresses(text: string): Endpoints {
  const [remoteIp = '', remotePort, localIp = '', localPort] = text.split(' ');
  return {
    remote: { ip: remoteIp, port: Number(remotePort) },
    local: { ip: localIp, port: Number(localPort) },
  };
}

const IPV4 = addresses('192.0.2.1 1234 198.51.100.2 25');
const IPV6 = addresses('2001:db8::1 1234 2001:db8::2 25');

/** Headers: name, bytes and addresses. */
type Vector = readonly [name: string, header: Buffer, addresses: Endpoints | undefined];

const V1: readonly Vector[] = [
  ['IPv4', latin1('PROXY TCP4 192.0.2.1 198.51.100.2 1234 25\r\n'), IPV4],
  ['IPv6', latin1('PROXY TCP6 2001:db8::1 2001:db8::2 1234 25\r\n'), IPV6],
  [
    'IPv6 in full and in capitals',
    latin1('PROXY TCP6 2001:0DB8:0:0:0:0:0:1 2001:DB8:0::2 1234 25\r\n'),
    IPV6,
  ],
  ['IPv4-mapped', latin1('PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c633:6402 1234 25\r\n'), IPV4],
  [
    'the longest of IPv4',
    latin1('PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n'),
    addresses('255.255.255.255 65535 255.255.255.255 65535'),
  ],
  ['zeros', latin1('PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n'), addresses('0.0.0.0 0 0.0.0.0 0')],
  ['UNKNOWN', latin1('PROXY UNKNOWN\r\n'), undefined],
  ['UNKNOWN and a space', latin1('PROXY UNKNOWN \r\n'), undefined],
  ['UNKNOWN and anything', latin1('PROXY UNKNOWN 192.0.2.1 \x00\xff  what ever\r\n'), undefined],
  ['UNKNOWN and addresses', latin1('PROXY UNKNOWN 192.0.2.1 198.51.100.2 1234 25\r\n'), undefined],
  ['UNKNOWN of 107 octets', latin1(`PROXY UNKNOWN ${'f'.repeat(91)}\r\n`), undefined],
];

/** Version 2, command PROXY, TCP over IPv4: 192.0.2.1 and 198.51.100.2, ports 1234 and 25. */
const V2_TCP4 = 'c0 00 02 01  c6 33 64 02  04 d2  00 19';

const V2: readonly Vector[] = [
  ['IPv4', hex(SIGNATURE, '21 11 00 0c', V2_TCP4), IPV4],
  [
    'IPv6',
    hex(
      SIGNATURE,
      '21 21 00 24',
      '20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01', // 2001:db8::1
      '20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02', // 2001:db8::2
      '04 d2  00 19', // ports 1234 and 25
    ),
    IPV6,
  ],
  [
    'IPv4-mapped',
    hex(
      SIGNATURE,
      '21 21 00 24',
      '00 00 00 00 00 00 00 00 00 00 ff ff c0 00 02 01', // ::ffff:192.0.2.1
      '00 00 00 00 00 00 00 00 00 00 ff ff c6 33 64 02', // ::ffff:198.51.100.2
      '04 d2  00 19',
    ),
    IPV4,
  ],
  [
    'TLVs of known and unknown types, one of them empty',
    hex(
      SIGNATURE,
      '21 11 00 1a',
      V2_TCP4,
      '02 00 02 6d 78', // authority, "mx"
      '04 00 00', // padding, nothing
      'e5 00 03 01 02 03', // a type for an application
    ),
    IPV4,
  ],
  // These two were written by HAProxy 2.6, for a server line with proxy-v2-options crc32c.
  ['a checksum', hex(SIGNATURE, '21 11 00 13', V2_TCP4, '03 00 04 60 7e eb 7e'), IPV4],
  [
    'a checksum over IPv6',
    hex(
      SIGNATURE,
      '21 21 00 2b',
      '20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01',
      '20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02',
      '04 d2  00 19',
      '03 00 04 d5 21 07 0d',
    ),
    IPV6,
  ],
  ['LOCAL', hex(SIGNATURE, '20 00 00 00'), undefined],
  ['LOCAL with addresses, which do not count', hex(SIGNATURE, '20 11 00 0c', V2_TCP4), undefined],
  ['LOCAL with a family that there is not, and 3 octets', hex(SIGNATURE, '20 ff 00 03 ff ff ff'), undefined],
  ['no family', hex(SIGNATURE, '21 00 00 00'), undefined],
  ['no family and 5 octets', hex(SIGNATURE, '21 00 00 05 ff ff ff ff ff'), undefined],
  ['IPv4 without a transport', hex(SIGNATURE, '21 10 00 0c', V2_TCP4), undefined],
  ['UDP over IPv4', hex(SIGNATURE, '21 12 00 0c', V2_TCP4), undefined],
  ['UDP over IPv6', hex(SIGNATURE, '21 22 00 24', '00'.repeat(36)), undefined],
  ['a Unix socket', hex(SIGNATURE, '21 31 00 d8', '2f'.repeat(216)), undefined],
  ['a Unix socket for datagrams', hex(SIGNATURE, '21 32 00 d8', '2f'.repeat(216)), undefined],
  [
    'the longest that is taken',
    hex(SIGNATURE, '21 11 0f f0', V2_TCP4, '04 0f e1', '00'.repeat(4065)), // 16 + 12 + 3 + 4065 = 4096
    IPV4,
  ],
];

/** What follows a header: the beginning of TLS or SMTP, of another header, a CRLF, or nothing. */
const BEHIND = [latin1(''), latin1('EHLO c.example\r\n'), latin1('\r\n'), latin1('PROXY '), hex(SIGNATURE)];

for (const [version, vectors] of [
  ['version 1', V1],
  ['version 2', V2],
] as const) {
  describe(`parseProxyHeader: ${version}`, () => {
    for (const [name, header, wanted] of vectors) {
      it(name, () => {
        for (const behind of BEHIND) {
          const parse = parseProxyHeader(Buffer.concat([header, behind]));
          assert.deepEqual(parse, { type: 'header', addresses: wanted, rest: behind });
        }
      });
      it(`${name}: needs more until it is complete`, () => {
        for (let length = 0; length < header.length; length++) {
          const parse = parseProxyHeader(header.subarray(0, length));
          assert.deepEqual(parse, { type: 'more' }, `after ${length} octets`);
        }
      });
    }
  });
}

function assertBad(parse: ProxyParse, label: string): void {
  assert.equal(parse.type, 'bad', label);
  // The reason is part of a one-line message, and must not contain client data.
  assert.match(parse.type === 'bad' ? parse.why : '', /^[\x20-\x7e]{10,100}$/, label);
}

/**
 * Asserts that every shorter prefix of a bad header gives 'more', and every longer one 'bad'.
 *
 * @param from the number of octets that show that it is bad.
 */
function assertBadFrom(header: Buffer, from: number): void {
  for (let length = 0; length <= header.length; length++) {
    const parse = parseProxyHeader(header.subarray(0, length));
    if (length < from) assert.deepEqual(parse, { type: 'more' }, `after ${length} octets`);
    else assertBad(parse, `after ${length} octets`);
  }
}

describe('parseProxyHeader: not a header', () => {
  for (const [text, from] of [
    ['EHLO c.example\r\n', 1],
    ['\x16\x03\x01\x02\x00\x01', 1], // TLS
    ['GET / HTTP/1.1\r\n', 1],
    [' PROXY TCP4 192.0.2.1 198.51.100.2 1234 25\r\n', 1],
    ['proxy TCP4 192.0.2.1 198.51.100.2 1234 25\r\n', 1],
    ['PROPFIND', 4],
    ['PROXY\r\n', 6],
    ['PROXY\tTCP4', 6],
    ['\r\nEHLO', 3],
    ['\r\n\r\n\0\r\nQUIT\r\n', 12], // the signature, but for its end
  ] as const) {
    it(JSON.stringify(text), () => assertBadFrom(latin1(text), from));
  }
});

describe('parseProxyHeader: a bad header of version 1', () => {
  for (const [marked, name] of [
    // "|" follows the first wrong octet.
    ['PROXY  |TCP4 192.0.2.1 198.51.100.2 1234 25\r\n', 'two spaces before the family'],
    ['PROXY \r|\n', 'no family'],
    ['PROXY t|cp4 192.0.2.1 198.51.100.2 1234 25\r\n', 'a family in lower case'],
    ['PROXY TCP5| 192.0.2.1 198.51.100.2 1234 25\r\n', 'another family'],
    ['PROXY TCP44| 192.0.2.1 198.51.100.2 1234 25\r\n', 'a family that goes on'],
    ['PROXY TCP |192.0.2.1 198.51.100.2 1234 25\r\n', 'a family cut short'],
    ['PROXY UD|P4 192.0.2.1 198.51.100.2 1234 25\r\n', 'UDP'],
    ['PROXY UNKNOWN4| 192.0.2.1\r\n', 'UNKNOWN that goes on'],
    ['PROXY UNKNOW\r|\n', 'UNKNOWN cut short'],
    ['PROXY TCP4\r|\n', 'no addresses'],
    ['PROXY TCP4 192.0.2.1\r|\n', 'one address'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2\r|\n', 'no ports'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 1234\r|\n', 'one port'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 1234 \r|\n', 'an empty port'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 1234 25 |\r\n', 'a space at the end'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 1234 25 |26\r\n', 'three ports'],
    ['PROXY TCP4  |192.0.2.1 198.51.100.2 1234 25\r\n', 'two spaces before an address'],
    ['PROXY TCP4 192.0.2.1  |198.51.100.2 1234 25\r\n', 'two spaces between addresses'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2  |1234 25\r\n', 'two spaces before a port'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 1234  |25\r\n', 'two spaces between ports'],
    ['PROXY TCP4 192.0.2.1\t|198.51.100.2 1234 25\r\n', 'a tabulator'],
    ['PROXY TCP4 192.0.2.256 |198.51.100.2 1234 25\r\n', 'a number over 255'],
    ['PROXY TCP4 192.0.2.01 |198.51.100.2 1234 25\r\n', 'a leading zero in an address'],
    ['PROXY TCP4 192.0.2 |198.51.100.2 1234 25\r\n', 'three numbers'],
    ['PROXY TCP4 192.0.2.1.1 |198.51.100.2 1234 25\r\n', 'five numbers'],
    ['PROXY TCP4 192.0.2.1 198.51.100 |1234 25\r\n', 'three numbers in the second address'],
    ['PROXY TCP4 1111111111111111| 198.51.100.2 1234 25\r\n', 'an address that does not end'],
    ['PROXY TCP4 m|x.example 198.51.100.2 1234 25\r\n', 'a name'],
    ['PROXY TCP4 2001:|db8::1 2001:db8::2 1234 25\r\n', 'IPv6 in TCP4'],
    ['PROXY TCP6 192.0.2.1 |198.51.100.2 1234 25\r\n', 'IPv4 in TCP6'],
    ['PROXY TCP6 2001:db8::1 198.51.100.2 |1234 25\r\n', 'both'],
    ['PROXY TCP6 2001:db8::1::1 |2001:db8::2 1234 25\r\n', 'two double colons'],
    ['PROXY TCP6 1:2:3:4:5:6:7:8:9 |2001:db8::2 1234 25\r\n', 'nine groups'],
    ['PROXY TCP6 1:2:3:4:5:6:7 |2001:db8::2 1234 25\r\n', 'seven groups'],
    ['PROXY TCP6 fe80::1%|eth0 2001:db8::2 1234 25\r\n', 'a zone id'],
    ['PROXY TCP6 [|2001:db8::1] 2001:db8::2 1234 25\r\n', 'brackets'],
    ['PROXY TCP6 2001:db8::1 g|::2 1234 25\r\n', 'no hexadecimal digit'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 65536| 25\r\n', 'a port over 65535'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 123456| 25\r\n', 'a port of six digits'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 01|234 25\r\n', 'a leading zero in a port'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 1234 00|\r\n', 'two zeros for a port'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 +|1234 25\r\n', 'a sign'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 1e|3 25\r\n', 'a number in another form'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 s|mtp 25\r\n', 'a service'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 1234 25\n|', 'LF alone'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 1234 25\rE|HLO\r\n', 'CR alone'],
    ['PROXY TCP4 192.0.2.1 198.51.100.2 1234 25\r\r|\n', 'two CRs'],
    ['PROXY UNKNOWN\n|\r\n', 'LF alone behind UNKNOWN'],
    ['PROXY UNKNOWN what\rE|ver\r\n', 'CR alone behind UNKNOWN'],
    [`PROXY UNKNOWN ${'f'.repeat(92)}\r|\n`, '108 octets'],
    [`PROXY UNKNOWN ${'f'.repeat(93)}|ffff`, 'no CRLF'],
    ['PROXY TCP4 192.0.2.1\0| 198.51.100.2 1234 25\r\n', 'NUL'],
    ['PROXY TCP4 192.0.2.\xb1| 198.51.100.2 1234 25\r\n', 'a digit with its eighth bit set'],
  ] as const) {
    it(name, () => assertBadFrom(latin1(marked.replace('|', '')), marked.indexOf('|')));
  }

  it('never needs more than 107 octets', () => {
    const line = latin1(`PROXY UNKNOWN ${'f'.repeat(200)}`);
    assert.deepEqual(parseProxyHeader(line.subarray(0, PROXY_V1_LIMIT - 1)), { type: 'more' });
    assertBad(parseProxyHeader(line.subarray(0, PROXY_V1_LIMIT)), 'at the limit');
  });
});

describe('parseProxyHeader: a bad header of version 2', () => {
  const whole = Number.POSITIVE_INFINITY;
  for (const [name, header, from] of [
    ['version 1', hex(SIGNATURE, '11 11 00 0c', V2_TCP4), 13],
    ['version 3', hex(SIGNATURE, '31 11 00 0c', V2_TCP4), 13],
    ['an unknown command', hex(SIGNATURE, '22 11 00 0c', V2_TCP4), 13],
    ['the last command', hex(SIGNATURE, '2f 11 00 0c', V2_TCP4), 13],
    ['an unknown family', hex(SIGNATURE, '21 41 00 0c', V2_TCP4), 14],
    ['the last family', hex(SIGNATURE, '21 f1 00 0c', V2_TCP4), 14],
    ['an unknown transport', hex(SIGNATURE, '21 13 00 0c', V2_TCP4), 14],
    ['the last transport', hex(SIGNATURE, '21 1f 00 0c', V2_TCP4), 14],
    ['11 octets for IPv4', hex(SIGNATURE, '21 11 00 0b', V2_TCP4), 16],
    ['none for IPv4', hex(SIGNATURE, '21 11 00 00'), 16],
    ['35 octets for IPv6', hex(SIGNATURE, '21 21 00 23', '00'.repeat(36)), 16],
    ['11 octets for UDP', hex(SIGNATURE, '21 12 00 0b', V2_TCP4), 16],
    ['215 octets for a Unix socket', hex(SIGNATURE, '21 31 00 d7', '00'.repeat(216)), 16],
    ['one octet over the limit', hex(SIGNATURE, '21 11 0f f1', V2_TCP4), 16],
    ['the longest there can be', hex(SIGNATURE, '21 11 ff ff', V2_TCP4), 16],
    ['LOCAL over the limit', hex(SIGNATURE, '20 00 0f f1'), 16],
    ['half a TLV', hex(SIGNATURE, '21 11 00 0e', V2_TCP4, '04 00'), whole],
    ['one octet of a TLV', hex(SIGNATURE, '21 11 00 0d', V2_TCP4, '04'), whole],
    [
      'a TLV that exceeds the header by one octet',
      hex(SIGNATURE, '21 11 00 11', V2_TCP4, '04 00 03 00 00'),
      whole,
    ],
    ['a TLV that exceeds the header by far', hex(SIGNATURE, '21 11 00 11', V2_TCP4, '04 ff ff 00 00'), whole],
    [
      'a second TLV that exceeds the header',
      hex(SIGNATURE, '21 11 00 13', V2_TCP4, '04 00 00 04 00 02 00'),
      whole,
    ],
    ['a TLV that exceeds the header, for UDP', hex(SIGNATURE, '21 12 00 0f', V2_TCP4, '04 00 01'), whole],
    ['a wrong checksum', hex(SIGNATURE, '21 11 00 13', V2_TCP4, '03 00 04 60 7e eb 7f'), whole],
    ['a checksum of 3 octets', hex(SIGNATURE, '21 11 00 12', V2_TCP4, '03 00 03 60 7e eb'), whole],
    ['a checksum of 5 octets', hex(SIGNATURE, '21 11 00 14', V2_TCP4, '03 00 05 60 7e eb 7e 00'), whole],
    ['an empty checksum', hex(SIGNATURE, '21 11 00 0f', V2_TCP4, '03 00 00'), whole],
  ] as const) {
    it(name, () => assertBadFrom(header, Math.min(from, header.length)));
  }

  it('any flipped bit, with a checksum', () => {
    const good = hex(SIGNATURE, '21 11 00 13', V2_TCP4, '03 00 04 60 7e eb 7e');
    assert.equal(parseProxyHeader(good).type, 'header');
    // The addresses and the value of the checksum: a bit elsewhere makes it a different kind of header.
    for (const [from, to] of [
      [16, 28],
      [31, 35],
    ] as const) {
      for (let at = from * 8; at < to * 8; at++) {
        const changed = Buffer.from(good);
        changed.writeUInt8(changed.readUInt8(at >> 3) ^ (1 << (at & 7)), at >> 3);
        assertBad(parseProxyHeader(changed), `bit ${at}`);
      }
    }
  });

  it('a second checksum after a correct one', () => {
    const start = hex(SIGNATURE, '21 11 00 1a', V2_TCP4);
    const one = withChecksum(Buffer.concat([start, hex('03 00 04 00 00 00 00', '04 00 04 00 00 00 00')]), 31);
    assert.equal(parseProxyHeader(one).type, 'header');
    const two = withChecksum(Buffer.concat([start, hex('03 00 04 00 00 00 00', '03 00 04 00 00 00 00')]), 31);
    const parse = parseProxyHeader(two);
    // The second one is also wrong, but must not be verified: each verification reads the whole header.
    assert.match(parse.type === 'bad' ? parse.why : parse.type, /second/);
  });

  it('never needs more than 4096 octets', () => {
    const longest = hex(SIGNATURE, '21 00 0f f0', '00'.repeat(4080));
    assert.equal(longest.length, PROXY_V2_LIMIT);
    assert.deepEqual(parseProxyHeader(longest.subarray(0, -1)), { type: 'more' });
    assert.equal(parseProxyHeader(longest).type, 'header');
  });
});

/** Writes the CRC32C of a header at an offset that holds zeros, by long division as it is defined. */
function withChecksum(header: Buffer, at: number): Buffer {
  let remainder = 0xffffffffn;
  for (const byte of header) {
    remainder ^= BigInt(byte);
    for (let bit = 0; bit < 8; bit++) remainder = (remainder >> 1n) ^ ((remainder & 1n) * 0x82f63b78n);
  }
  const signed = Buffer.from(header);
  signed.writeUInt32BE(Number(remainder ^ 0xffffffffn), at);
  return signed;
}

describe('formatProxyV1', () => {
  for (const [name, remote, local, line] of [
    ['IPv4', IPV4.remote, IPV4.local, 'PROXY TCP4 192.0.2.1 198.51.100.2 1234 25\r\n'],
    ['IPv6', IPV6.remote, IPV6.local, 'PROXY TCP6 2001:db8::1 2001:db8::2 1234 25\r\n'],
    [
      'IPv4-mapped, as a dual-stack socket reports it',
      { ip: '::ffff:192.0.2.1', port: 1234 },
      { ip: '::ffff:198.51.100.2', port: 25 },
      'PROXY TCP4 192.0.2.1 198.51.100.2 1234 25\r\n',
    ],
    [
      'zone ids, which are omitted',
      { ip: 'fe80::1%eth0', port: 1234 },
      { ip: 'fe80::2%eth0', port: 25 },
      'PROXY TCP6 fe80::1 fe80::2 1234 25\r\n',
    ],
    ['both families', IPV4.remote, IPV6.local, 'PROXY UNKNOWN\r\n'],
    ['no client', undefined, IPV4.local, 'PROXY UNKNOWN\r\n'],
    ['no server', IPV4.remote, undefined, 'PROXY UNKNOWN\r\n'],
    ['no address', { ip: 'mx.example', port: 1234 }, IPV4.local, 'PROXY UNKNOWN\r\n'],
    ['a line in the address', { ip: '192.0.2.1\r\n', port: 1234 }, IPV4.local, 'PROXY UNKNOWN\r\n'],
    ['no port', { ip: '192.0.2.1', port: Number.NaN }, IPV4.local, 'PROXY UNKNOWN\r\n'],
    ['a port over 65535', { ip: '192.0.2.1', port: 65536 }, IPV4.local, 'PROXY UNKNOWN\r\n'],
  ] as const) {
    it(name, () => assert.equal(formatProxyV1(remote, local).toString('latin1'), line));
  }
});

const TLS: ProxyTls = {
  protocol: 'TLSv1.3',
  cipher: 'TLS_AES_256_GCM_SHA384',
  commonName: undefined,
  verified: false,
};

describe('formatProxyV2', () => {
  /** "TLSv1.3" and the name of the cipher, each with its type and length. */
  const version = '21 00 07 54 4c 53 76 31 2e 33';
  const cipher = '23 00 16 54 4c 53 5f 41 45 53 5f 32 35 36 5f 47 43 4d 5f 53 48 41 33 38 34';
  const name = '22 00 0e 63 6c 69 65 6e 74 2e 65 78 61 6d 70 6c 65'; // client.example
  const start4 = [SIGNATURE, '21 11 00'];

  it('IPv4', () => {
    assert.deepEqual(formatProxyV2(IPV4.remote, IPV4.local), hex(...start4, '0c', V2_TCP4));
  });

  it('IPv6', () => {
    const wanted = hex(
      SIGNATURE,
      '21 21 00 24',
      '20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01',
      '20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02',
      '04 d2  00 19',
    );
    assert.deepEqual(formatProxyV2(IPV6.remote, IPV6.local), wanted);
  });

  it('both families: IPv4 is sent as IPv4-mapped', () => {
    const mapped = '00 00 00 00 00 00 00 00 00 00 ff ff c0 00 02 01';
    const plain = '20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02';
    const there = hex(SIGNATURE, '21 21 00 24', mapped, plain, '04 d2  00 19');
    assert.deepEqual(formatProxyV2(IPV4.remote, IPV6.local), there);
    const back = hex(SIGNATURE, '21 21 00 24', plain, mapped, '00 19  04 d2');
    assert.deepEqual(formatProxyV2(IPV6.local, IPV4.remote), back);
  });

  it('no address: no family', () => {
    const wanted = hex(SIGNATURE, '21 00 00 00');
    const invalid: Endpoint = { ip: '', port: 0 };
    assert.deepEqual(formatProxyV2(undefined, IPV4.local), wanted);
    assert.deepEqual(formatProxyV2(IPV4.remote, undefined), wanted);
    assert.deepEqual(formatProxyV2(invalid, IPV4.local), wanted);
    assert.deepEqual(formatProxyV2({ ip: '192.0.2.1', port: -1 }, IPV4.local), wanted);
    assert.deepEqual(formatProxyV2({ ip: '192.0.2.1', port: 1.5 }, IPV4.local), wanted);
  });

  it('TLS without a certificate', () => {
    // 20: TLS. 01: only TLS. The next four octets are zero only for a verified certificate.
    const wanted = hex(...start4, '37', V2_TCP4, '20 00 28', '01', '00 00 00 01', version, cipher);
    assert.deepEqual(formatProxyV2(IPV4.remote, IPV4.local, TLS), wanted);
  });

  it('TLS with a certificate', () => {
    // 07: TLS, a certificate on the connection, one in the session. HAProxy sends the same octets.
    const wanted = hex(...start4, '48', V2_TCP4, '20 00 39', '07', '00 00 00 00', version, name, cipher);
    const tls = { ...TLS, commonName: 'client.example', verified: true };
    assert.deepEqual(formatProxyV2(IPV4.remote, IPV4.local, tls), wanted);
  });

  it('an unverified common name is not sent', () => {
    const tls = { ...TLS, commonName: 'client.example' };
    assert.deepEqual(
      formatProxyV2(IPV4.remote, IPV4.local, tls),
      formatProxyV2(IPV4.remote, IPV4.local, TLS),
    );
  });

  it('unknown values are omitted', () => {
    const tls = { protocol: undefined, cipher: '', commonName: undefined, verified: false };
    const wanted = hex(...start4, '14', V2_TCP4, '20 00 05', '01', '00 00 00 01');
    assert.deepEqual(formatProxyV2(IPV4.remote, IPV4.local, tls), wanted);
  });

  it('a common name is sent in UTF-8, and never truncated', () => {
    const tls = { protocol: undefined, cipher: undefined, verified: true };
    const short = formatProxyV2(IPV4.remote, IPV4.local, { ...tls, commonName: 'Ü' });
    assert.deepEqual(short, hex(...start4, '19', V2_TCP4, '20 00 0a', '07', '00 00 00 00', '22 00 02 c3 9c'));
    const longest = formatProxyV2(IPV4.remote, IPV4.local, { ...tls, commonName: 'Ü'.repeat(128) });
    assert.equal(longest.length, 16 + 12 + 3 + 5 + 3 + 256);
    const tooLong = formatProxyV2(IPV4.remote, IPV4.local, { ...tls, commonName: 'Ü'.repeat(129) });
    assert.equal(tooLong.length, 16 + 12 + 3 + 5);
  });

  it('TLS of an unknown client', () => {
    const wanted = hex(SIGNATURE, '21 00 00 2b', '20 00 28', '01', '00 00 00 01', version, cipher);
    assert.deepEqual(formatProxyV2(undefined, undefined, TLS), wanted);
  });
});

describe('round trip', () => {
  const rest = latin1('EHLO c.example\r\n');

  it('a formatted header can be parsed, of both versions', () => {
    const random = createRandom(3, 0);
    for (let count = 0; count < 500; count++) {
      const randomIp = random.chance(50) ? randomIpv4 : randomIpv6;
      const remote = { ip: randomIp(random), port: random.below(65536) };
      const local = { ip: randomIp(random), port: random.below(65536) };
      const tls = random.chance(50)
        ? { ...TLS, commonName: 'c'.repeat(random.below(300)), verified: random.chance(50) }
        : undefined;
      for (const header of [formatProxyV1(remote, local), formatProxyV2(remote, local, tls)]) {
        const parse = parseProxyHeader(Buffer.concat([header, rest]));
        assert.deepEqual(parse, { type: 'header', addresses: { remote, local }, rest });
      }
    }
  });

  it('a formatted header with both families can be parsed, of version 2', () => {
    const parse = parseProxyHeader(formatProxyV2(IPV4.remote, IPV6.local, TLS));
    assert.deepEqual(parse, {
      type: 'header',
      addresses: { remote: IPV4.remote, local: IPV6.local },
      rest: Buffer.alloc(0),
    });
  });

  it('a formatted header without addresses keeps those of the connection', () => {
    for (const header of [formatProxyV1(undefined, undefined), formatProxyV2(undefined, undefined, TLS)]) {
      assert.deepEqual(parseProxyHeader(header), {
        type: 'header',
        addresses: undefined,
        rest: Buffer.alloc(0),
      });
    }
  });
});

function randomIpv4(random: Random): string {
  return Array.from({ length: 4 }, () => random.below(256)).join('.');
}

/** Eight groups, none of them zero, so that there is only one spelling. */
function randomIpv6(random: Random): string {
  return Array.from({ length: 8 }, () => (1 + random.below(65535)).toString(16)).join(':');
}

describe('parseProxyHeader: garbage', () => {
  it('random bytes are bad', () => {
    const random = createRandom(5, 0);
    for (let count = 0; count < 5000; count++) {
      const bytes = randomBytes(random, 16 + random.below(200));
      assertBad(parseProxyHeader(bytes), bytes.toString('hex'));
    }
  });

  it('random bytes after a valid start do not throw, and are accepted only if valid', () => {
    const random = createRandom(5, 1);
    const starts = [
      latin1('PROXY '),
      latin1('PROXY TCP4 '),
      latin1('PROXY TCP6 ::1 '),
      hex(SIGNATURE),
      hex(SIGNATURE, '21'),
      hex(SIGNATURE, '21 11'),
      hex(SIGNATURE, '21 11 00'),
      hex(SIGNATURE, '20 00 00'),
    ] as const;
    const seen = { more: 0, bad: 0, header: 0 };
    for (let count = 0; count < 5000; count++) {
      const start = random.pick([starts[0], ...starts]);
      const bytes = Buffer.concat([start, randomBytes(random, random.below(300))]);
      const parse = parseProxyHeader(bytes);
      seen[parse.type]++;
      if (parse.type === 'more') assert.ok(bytes.length < PROXY_V2_LIMIT);
      if (parse.type !== 'header') continue;
      // Random bytes never form a line of version 1; version 2 has few rules that they could break.
      assert.ok(bytes.subarray(0, 12).equals(hex(SIGNATURE)), bytes.toString('hex'));
      assert.equal(bytes.length - parse.rest.length, 16 + bytes.readUInt16BE(14));
    }
    // Otherwise only one branch would be tested.
    for (const [type, times] of Object.entries(seen)) assert.ok(times > 10, `${type}: ${times}`);
  });

  it('a valid header with one octet changed does not throw, and keeps its length', () => {
    const random = createRandom(5, 2);
    for (const [name, header] of [...V1, ...V2.slice(0, -1)]) {
      for (let at = 0; at < header.length; at++) {
        const changed = Buffer.from(header);
        changed.writeUInt8(random.below(256), at);
        const parse = parseProxyHeader(changed);
        if (parse.type === 'header') assert.ok(parse.rest.length < header.length, `${name}: octet ${at}`);
        const isStart = at < (header[0] === 0x0d ? 12 : 6);
        if (isStart && !changed.equals(header)) assertBad(parse, `${name}: octet ${at}`);
      }
    }
  });
});

function randomBytes(random: Random, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => random.below(256)));
}
