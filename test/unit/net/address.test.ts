/** Addresses and networks. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  addressGroup,
  addressOctets,
  addressText,
  parseNetworks,
  plainAddress,
} from '../../../lib/net/address.ts';
import { createRandom } from '../../fuzz/random.ts';
import { assertWrongUsage } from '../../support/wrong-usage.ts';

describe('plainAddress', () => {
  const cases: readonly (readonly [ip: string, plain: string])[] = [
    ['192.0.2.1', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['::FFFF:192.0.2.1', '192.0.2.1'],
    ['::ffff:c000:201', '192.0.2.1'],
    ['0:0:0:0:0:ffff:c000:0201', '192.0.2.1'],
    ['0:0:0:0:0:ffff:192.0.2.1', '192.0.2.1'],
    ['::ffff:0:0', '0.0.0.0'],
    // Neither of these is IPv4-mapped.
    ['::192.0.2.1', '::192.0.2.1'],
    ['::ffff:0:192.0.2.1', '::ffff:0:192.0.2.1'],
    ['2001:DB8::1', '2001:DB8::1'],
    ['fe80::1%eth0', 'fe80::1%eth0'],
    ['', ''],
    ['::ffff:192.0.2.256', '::ffff:192.0.2.256'],
  ];
  for (const [ip, plain] of cases) {
    it(`${ip || 'nothing'} -> ${plain || 'nothing'}`, () => assert.equal(plainAddress(ip), plain));
  }
});

describe('addressGroup', () => {
  const cases: readonly (readonly [ip: string, group: string])[] = [
    ['192.0.2.1', '192.0.2.1'],
    ['::ffff:192.0.2.1', '192.0.2.1'],
    ['::ffff:c000:201', '192.0.2.1'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'],
    ['2001:0DB8:0001:0002::', '2001:db8:1:2::/64'],
    ['2001:db8:1:2:ffff:ffff:ffff:ffff', '2001:db8:1:2::/64'],
    ['2001:db8:1:3::', '2001:db8:1:3::/64'],
    ['2001:db8::3:4:5:6', '2001:db8::/64'],
    ['fe80::1%eth0', 'fe80::/64'],
    ['fe80::2%eth1', 'fe80::/64'],
    ['::1', '::/64'],
    ['', ''],
    ['/run/smtpd', '/run/smtpd'],
  ];
  for (const [ip, group] of cases) {
    it(`${ip || 'nothing'} -> ${group || 'nothing'}`, () => assert.equal(addressGroup(ip), group));
  }
});

describe('addressOctets and addressText', () => {
  const cases: readonly (readonly [ip: string, hex: string, text?: string])[] = [
    ['192.0.2.255', 'c00002ff'],
    ['::', '00000000000000000000000000000000'],
    ['::1', '00000000000000000000000000000001'],
    ['1::', '00010000000000000000000000000000'],
    ['1:2:3:4:5:6:7:8', '00010002000300040005000600070008'],
    ['2001:db8::abcd:0:0:1', '20010db800000000abcd000000000001'],
    ['2001:DB8:0:0:0:0:0:1', '20010db8000000000000000000000001', '2001:db8::1'],
    ['64:ff9b::192.0.2.1', '0064ff9b0000000000000000c0000201', '64:ff9b::c000:201'],
    ['::ffff:192.0.2.1', 'c0000201', '192.0.2.1'],
    ['fe80::1%eth0', 'fe800000000000000000000000000001', 'fe80::1'],
  ];
  for (const [ip, hex, text = ip] of cases) {
    it(`${ip} is ${hex}`, () => {
      const octets = addressOctets(ip);
      assert.ok(octets);
      assert.equal(Buffer.from(octets).toString('hex'), hex);
      assert.equal(addressText(octets), text);
    });
  }

  it('writes an IPv4-mapped address of 16 octets as IPv4', () => {
    assert.equal(addressText(Buffer.from('00000000000000000000ffffc0000201', 'hex')), '192.0.2.1');
  });

  it('returns undefined for text that is not an address', () => {
    for (const ip of ['', 'mx.example', '192.0.2', '192.0.2.01', '1:2:3', '::1::', ':::', '::g', '[::1]']) {
      assert.equal(addressOctets(ip), undefined, ip);
    }
  });

  it('round-trips a thousand addresses', () => {
    const random = createRandom(7, 0);
    for (let count = 0; count < 1000; count++) {
      const octets = Uint8Array.from({ length: 16 }, () => (random.chance(60) ? 0 : random.below(256)));
      const back = addressOctets(addressText(octets));
      assert.ok(back);
      const isMapped = back.length === 4;
      assert.deepEqual([...back], [...octets.subarray(isMapped ? 12 : 0)]);
    }
  });
});

describe('parseNetworks', () => {
  const cases: readonly (readonly [list: string, inside: readonly string[], outside: readonly string[]])[] = [
    [
      '192.0.2.1',
      ['192.0.2.1', '::ffff:192.0.2.1', '::ffff:c000:201'],
      ['192.0.2.0', '192.0.2.2', '::192.0.2.1'],
    ],
    [
      '10.0.0.0/8',
      ['10.0.0.0', '10.255.255.255', '::ffff:10.1.2.3'],
      ['9.255.255.255', '11.0.0.0', '::a00:1'],
    ],
    ['192.0.2.128/25', ['192.0.2.128', '192.0.2.255'], ['192.0.2.127', '192.0.3.128']],
    ['0.0.0.0/0', ['0.0.0.0', '255.255.255.255', '::ffff:192.0.2.1'], ['::1', '2001:db8::1']],
    ['2001:db8::/32', ['2001:db8::', '2001:DB8:ffff::1'], ['2001:db9::', '2001:db7:ffff::', '192.0.2.1']],
    ['fe80::/10', ['fe80::1', 'febf::1', 'fe80::1%eth0'], ['fec0::1', 'fe7f::1']],
    ['::1', ['::1', '0:0:0:0:0:0:0:1'], ['::2', '::', '0.0.0.1', '127.0.0.1']],
    // All of IPv6; an IPv4-mapped address is not in it.
    ['::/0', ['::', '2001:db8::1'], ['192.0.2.1', '::ffff:192.0.2.1']],
    ['::ffff:192.0.2.1', ['192.0.2.1', '::ffff:192.0.2.1'], ['192.0.2.2']],
    ['::ffff:192.0.2.0/120', ['192.0.2.0', '192.0.2.255'], ['192.0.3.0', '192.0.1.255']],
    ['::ffff:0:0/96', ['0.0.0.0', '192.0.2.1'], ['::1']],
    [' 192.0.2.1 , 10.0.0.0/8,\t::1 ', ['192.0.2.1', '10.1.1.1', '::1'], ['192.0.2.2', '::2']],
    ['192.0.2.1,192.0.2.1', ['192.0.2.1'], ['192.0.2.2']],
  ];
  for (const [list, inside, outside] of cases) {
    it(list, () => {
      const networks = parseNetworks(list);
      for (const ip of inside) assert.equal(networks.contains(ip), true, `${ip} is in ${list}`);
      for (const ip of outside) assert.equal(networks.contains(ip), false, `${ip} is not in ${list}`);
    });
  }

  it('contains no text that is not an address', () => {
    const networks = parseNetworks('0.0.0.0/0,::/0');
    for (const ip of ['', 'mx.example', '192.0.2', '/run/smtpd', '::ffff:192.0.2.256', '%eth0']) {
      assert.equal(networks.contains(ip), false, ip);
    }
  });

  it('agrees with a comparison bit by bit, for every length of prefix', () => {
    const random = createRandom(11, 0);
    for (const width of [32, 128]) {
      for (let prefix = 0; prefix <= width; prefix++) {
        const bits = Array.from({ length: width }, (_, at) => (at < prefix ? random.below(2) : 0));
        // With the first bit set the address is not IPv4-mapped.
        if (prefix > 0) bits[0] = 1;
        const networks = parseNetworks(`${textOfBits(bits)}/${prefix}`);
        const inside = bits.map((bit, at) => (at < prefix ? bit : at === 0 ? 1 : random.below(2)));
        assert.equal(networks.contains(textOfBits(inside)), true, `${textOfBits(inside)} in /${prefix}`);
        if (prefix === 0) continue;
        const flipped = inside.map((bit, at) => (at === prefix - 1 ? 1 - bit : bit));
        assert.equal(networks.contains(textOfBits(flipped)), false, `${textOfBits(flipped)} in /${prefix}`);
      }
    }
  });

  for (const [list, shown] of [
    ['', '""'],
    [' ', '""'],
    [',', '""'],
    ['192.0.2.1,', '""'],
    ['192.0.2.1,,::1', '""'],
    ['192.0.2.1,mx.example', '"mx.example"'],
    ['192.0.2', '"192.0.2"'],
    ['192.0.2.256', '"192.0.2.256"'],
    ['192.0.2.1 10.0.0.1', '"192.0.2.1 10.0.0.1"'],
    ['10.0.0.0/', '"10.0.0.0/"'],
    ['10.0.0.0/33', '0 to 32, not "10.0.0.0/33"'],
    ['10.0.0.0/-1', '"10.0.0.0/-1"'],
    ['10.0.0.0/8/8', '"10.0.0.0/8/8"'],
    ['10.0.0.0/255.0.0.0', '"10.0.0.0/255.0.0.0"'],
    ['10.0.0.1/8', '10.0.0.0/8, not "10.0.0.1/8"'],
    ['2001:db8::1/64', '2001:db8::/64, not "2001:db8::1/64"'],
    ['2001:db8::/129', '0 to 128, not "2001:db8::/129"'],
    ['::ffff:0:0/95', '96 to 128, not "::ffff:0:0/95"'],
    ['fe80::1%eth0', '"fe80::1%eth0"'],
    ['[::1]', '"[::1]"'],
  ] as const) {
    it(`refuses ${JSON.stringify(list)}`, () => assertWrongUsage(() => parseNetworks(list), shown));
  }
});

/** An address of 32 or 128 bits, written without a short form. */
function textOfBits(bits: readonly number[]): string {
  const digits = BigInt(`0b${bits.join('')}`).toString(16);
  const hex = digits.padStart(bits.length / 4, '0');
  if (bits.length === 32) return [...Buffer.from(hex, 'hex')].join('.');
  return (hex.match(/.{4}/g) ?? []).join(':');
}
