/** Which MX hosts a backup MX passes mail on to. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { preferredHosts } from '../../../../lib/smtpd/relay/backup.ts';

/** What, the records as "PREFERENCE HOST", and the hosts in order or the fault. This host is mx2.example. */
const CASES: readonly [string, readonly string[], readonly string[] | RegExp][] = [
  ['the only host before it', ['10 mx1.example', '20 mx2.example'], ['mx1.example']],
  [
    'all before it, in the order of preference',
    ['30 mx2.example', '20 c.example', '5 b.example', '10 a.example'],
    ['b.example', 'a.example', 'c.example'],
  ],
  ['numbers, not text', ['9 a.example', '10 mx2.example', '100 b.example'], ['a.example']],
  ['preference 0', ['0 a.example', '1 mx2.example'], ['a.example']],
  ['names without regard to case', ['10 MX1.Example', '20 Mx2.EXAMPLE'], ['mx1.example']],
  ['absolute names', ['10 mx1.example.', '20 mx2.example.'], ['mx1.example']],
  ['a host once', ['10 a.example', '5 A.example', '20 mx2.example'], ['a.example']],
  [
    'none of its own other records',
    ['10 a.example', '5 mx2.example', '1 b.example', '20 mx2.example'],
    ['b.example'],
  ],
  [
    'five at most',
    [
      '1 a.example',
      '2 b.example',
      '3 c.example',
      '4 d.example',
      '5 e.example',
      '6 f.example',
      '7 mx2.example',
    ],
    ['a.example', 'b.example', 'c.example', 'd.example', 'e.example'],
  ],
  [
    'nothing that is not a host name',
    [
      ...[
        '1 127.0.0.1',
        '2 ::1',
        '3 [::1]',
        '4 0',
        '5 127.1',
        '6 0x7f000001.1',
        '7 mx:587',
        '8 user@mx',
        '9 mx,mx',
      ],
      ...['10 ', '11 a b', '12 a\r\n250 ok', '13 a\0b', '14 a/b', '15 a..b', `16 ${'a.'.repeat(127)}b`],
      ...['20 mx1.example', '30 mx2.example'],
    ],
    ['mx1.example'],
  ],
  ['no host if there is no record', [], /^it has no MX records$/],
  [
    'no host if it is not among them',
    ['10 mx1.example', '20 mx3.example'],
    /^mx2\.example is not one of its MX hosts$/,
  ],
  [
    'no host if it is the first',
    ['10 mx2.example', '20 mx1.example'],
    /^it has no MX host that is preferred to mx2\.example$/,
  ],
  [
    'none of equal preference',
    ['10 mx1.example', '10 mx2.example'],
    /^it has no MX host that is preferred to/,
  ],
  [
    'no host if none has a name',
    ['10 192.0.2.1', '20 mx2.example'],
    /^it has no MX host that is preferred to/,
  ],
  ['no host for a null MX', ['0 '], /^it accepts no mail \(null MX\)$/],
];

function parse(record: string): { priority: number; exchange: string } {
  const [, priority, exchange = ''] = /^(\d+) (.*)$/s.exec(record) ?? [];
  return { priority: Number(priority), exchange };
}

describe('a backup MX chooses', () => {
  for (const [what, records, expected] of CASES) {
    it(what, () => {
      const chosen = preferredHosts(records.map(parse), 'mx2.example');
      if ('fault' in chosen) assert.match(chosen.fault, expected as RegExp);
      else assert.deepEqual(chosen.hosts, expected);
    });
  }

  it('at random among hosts of equal preference', () => {
    const records = ['10 a.example', '10 b.example', '20 mx2.example'].map(parse);
    const orders = new Set<string>();
    // A fixed order would be found after 200 of these, a random one is missed once in 2^199 runs.
    for (let count = 0; count < 200; count += 1) {
      const chosen = preferredHosts(records, 'mx2.example');
      assert.ok('hosts' in chosen);
      orders.add(chosen.hosts.join(' '));
    }
    assert.deepEqual([...orders].sort(), ['a.example b.example', 'b.example a.example']);
  });
});
