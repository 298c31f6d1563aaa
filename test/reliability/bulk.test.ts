/** 50 MB of random octets through the relay, in both directions at once. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { runShim } from '../support/shim.ts';
import { exchange } from './exchange.ts';
import { assertModest, MARGIN_IN_MOTION } from './memory.ts';

const OCTETS = 50_000_000;

for (const [server, tls] of [
  ['s6-ucspitlsd', false],
  ['ucspi-tlsd', true],
  ['a server with one descriptor', true],
] as const) {
  describe(`50 MB each way at once, in ${tls ? 'TLS' : 'cleartext'} under ${server}`, () => {
    for (const slow of ['neither', 'client', 'smtpd'] as const) {
      if (server === 'a server with one descriptor' && slow !== 'neither') continue;
      it(`arrive as they were sent, where ${slow === 'neither' ? 'neither side' : slow} reads slowly`, async (t) => {
        const run = await runShim(t, { server });
        await run.client.reply();
        if (tls) await run.client.startTls();
        else await run.client.ask('HELO client');
        const { sent, sentAsRead, received, receivedAsWritten } = await exchange(run.client, OCTETS, slow);
        assert.equal(sentAsRead, sent);
        assert.equal(receivedAsWritten, received);
        await assertModest(t, await run.shim(), MARGIN_IN_MOTION);
      });
    }
  });
}
