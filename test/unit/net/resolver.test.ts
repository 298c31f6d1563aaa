/** Look-ups in DNS, and the addresses of this machine. */

import assert from 'node:assert/strict';
import { networkInterfaces } from 'node:os';
import { describe, it } from 'node:test';
import { createResolver, isOwnAddress } from '../../../lib/net/resolver.ts';
import { startDnsmasq, startSilentDns } from '../../support/dns.ts';
import { missing } from '../../support/programs.ts';
import { DEADLINE } from '../../support/within.ts';

describe('createResolver', () => {
  const skip = missing('dnsmasq');

  it('returns the addresses of both families, IPv6 first', { skip }, async (t) => {
    const server = await startDnsmasq(t, ['--host-record=a.example,127.0.0.1,::1']);
    assert.deepEqual(await createResolver(server, DEADLINE).addresses('a.example'), [
      { address: '::1', family: 6 },
      { address: '127.0.0.1', family: 4 },
    ]);
  });

  it('returns five addresses of a family at most', { skip }, async (t) => {
    const numbers = [1, 2, 3, 4, 5, 6, 7];
    const records = numbers.map((number) => `--host-record=a.example,127.0.0.${number},::${number}`);
    const server = await startDnsmasq(t, records);
    const found = await createResolver(server, DEADLINE).addresses('a.example');
    assert.deepEqual(
      found.map(({ family }) => family),
      [6, 6, 6, 6, 6, 4, 4, 4, 4, 4],
    );
  });

  it('looks nothing up after it was cancelled', async (t) => {
    const { address, queries } = await startSilentDns(t);
    const resolver = createResolver(address, DEADLINE);
    assert.equal(resolver.isCancelled(), false);
    resolver.cancel();
    assert.equal(resolver.isCancelled(), true);
    await assert.rejects(resolver.mx('a.example'), { message: 'ECANCELLED' });
    await assert.rejects(resolver.addresses('a.example'), { message: 'ECANCELLED' });
    assert.equal(queries(), 0);
  });

  it('ends all look-ups when it is cancelled', async (t) => {
    const { address, asked } = await startSilentDns(t);
    const resolver = createResolver(address, DEADLINE);
    const lookUps = [resolver.mx('a.example'), resolver.addresses('b.example')];
    void asked.then(resolver.cancel);
    for (const lookUp of lookUps) await assert.rejects(lookUp, { code: 'ECANCELLED' });
  });
});

describe('isOwnAddress', () => {
  const interfaces = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  const own = [
    ...['127.0.0.1', '127.255.255.254', '0.0.0.0', '::1', '0:0:0:0:0:0:0:1', '::', '::ffff:127.0.0.1'],
    ...interfaces.map(({ address, family }) => (family === 'IPv4' ? `::ffff:${address}` : address)),
    ...interfaces.map(({ address }) => address),
  ];
  for (const ip of new Set(own)) it(ip, () => assert.equal(isOwnAddress(ip), true));

  for (const ip of ['192.0.2.1', '128.0.0.1', '2001:db8::1', '::2', '::ffff:192.0.2.1']) {
    it(`not ${ip}`, () => assert.equal(isOwnAddress(ip), false));
  }
});
