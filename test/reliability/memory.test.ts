/** Memory is bounded when a peer does not read, or sends without end. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it } from 'node:test';
import { unreadOctets } from '../support/kernel.ts';
import { runShim, type ShimRun } from '../support/shim.ts';
import { assertModest, MARGIN_AT_REST, MARGIN_IN_MOTION, standstill } from './memory.ts';

/** More octets than all kernel buffers between the two ends hold. */
const MUCH = 30_000_000;

/** How many octets the client has written that the kernel has not accepted. */
function pendingOctets({ client }: ShimRun): number {
  return client.socket().writableLength;
}

describe('memory stays bounded', { concurrency: 2 }, () => {
  it('when the client pipelines commands and reads no reply', async (t) => {
    const run = await runShim(t, { smtpd: ['--on=HELP:flood 100000; line 250 end'] });
    await run.client.reply();
    run.client.pause();
    run.client.send('HELP\r\n'.repeat(MUCH / 6));
    const shim = await run.shim();
    await standstill(shim, () => unreadOctets(run.port, run.clientPort));
    assert.ok(pendingOctets(run) > 0, 'everything was read');
    await assertModest(t, shim, MARGIN_AT_REST);
  });

  it('when the client reads nothing, in the relay', async (t) => {
    const run = await runShim(t);
    await run.client.reply();
    await run.client.ask('HELO client');
    run.client.pause();
    run.client.sendLines(`XDO flood ${10 * MUCH}; line 250 end`);
    const shim = await run.shim();
    await run.hasRead('flood');
    await standstill(shim, () => unreadOctets(run.clientPort, run.port));
    await assertModest(t, shim, MARGIN_AT_REST);
  });

  it('when the client reads nothing, in TLS', async (t) => {
    const run = await runShim(t, { server: 'ucspi-tlsd' });
    await run.client.reply();
    await run.client.startTls();
    run.client.pause();
    run.client.sendLines(`XDO flood ${10 * MUCH}; line 250 end`);
    const shim = await run.shim();
    await run.hasRead('flood');
    await standstill(shim, () => unreadOctets(run.clientPort, run.port));
    await assertModest(t, shim, MARGIN_AT_REST);
  });

  it('when smtpd reads nothing, in the relay', async (t) => {
    const run = await runShim(t);
    await run.client.reply();
    await run.client.ask('HELO client');
    run.client.sendLines('XDO await-nothing');
    await run.hasRead('await-nothing');
    run.client.send(Buffer.alloc(MUCH, 'x'));
    const shim = await run.shim();
    await standstill(shim, () => unreadOctets(run.port, run.clientPort));
    assert.ok(pendingOctets(run) > 0, 'everything was read');
    await assertModest(t, shim, MARGIN_AT_REST);
  });

  it('when smtpd reads nothing, in the dialogue', async (t) => {
    const run = await runShim(t, { smtpd: ['--on=NOOP:await-nothing'] });
    await run.client.reply();
    run.client.sendLines('NOOP');
    await run.hasRead('NOOP');
    run.client.send('NOOP\r\n'.repeat(MUCH / 6));
    const shim = await run.shim();
    await standstill(shim, () => unreadOctets(run.port, run.clientPort));
    assert.ok(pendingOctets(run) > 0, 'everything was read');
    await assertModest(t, shim, MARGIN_AT_REST);
  });

  it('when a line has 100 MB: it is dropped, with one 500, and the session continues', async (t) => {
    const run = await runShim(t);
    await run.client.reply();
    const piece = Buffer.alloc(1_000_000, 'A');
    for (let count = 0; count < 100; count++) {
      if (!run.client.socket().write(piece)) await once(run.client.socket(), 'drain');
    }
    assert.match(await run.client.ask(''), /^500 5\.5\.2 /);
    assert.equal(await run.client.ask('NOOP'), '250 2.0.0 Ok');
    assert.equal(run.record(), 'NOOP\r\n');
    await assertModest(t, await run.shim(), MARGIN_IN_MOTION);
  });

  it('when a reply of smtpd has 30 MB in many lines', async (t) => {
    const run = await runShim(t, { smtpd: [`--on=HELP:flood ${MUCH}; line 250 end`] });
    await run.client.reply();
    run.client.sendLines('HELP');
    let last = '';
    run.client.socket().removeAllListeners('data');
    run.client.socket().on('data', (bytes: Buffer) => {
      last = (last + bytes.toString('latin1')).slice(-20);
    });
    while (!last.endsWith('250 end\r\n')) await once(run.client.socket(), 'data');
    await assertModest(t, await run.shim(), MARGIN_IN_MOTION);
  });

  it('when a line of smtpd never ends: the client receives 421, and the line is not kept', async (t) => {
    const run = await runShim(t, {
      options: ['-t', '3'],
      smtpd: ['--start=flood-line 100000000; await-end; exit 0'],
    });
    const shim = await run.shim();
    assert.match(await run.client.rest(), /^421 4\.[34]\.[02] /);
    await assertModest(t, shim, MARGIN_IN_MOTION);
  });
});
