/** The driver of an opening, with a fake smtpd. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { deferred } from '../../../lib/program/deferred.ts';
import { holdOpening } from '../../../lib/smtpd/hold-opening.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { createTestSmtpd, createTestStream, outcomeOf } from '../../support/test-stream.ts';

describe('the opening held with an smtpd', () => {
  function start(t: TestContext, ...hellos: string[]) {
    const clock = stopClock(t);
    // All bytes are given in one buffer, which is overwritten: to keep them, the reader must copy them.
    const smtpd = { ...createTestSmtpd(), ...createTestStream() };
    const { promise: abort, resolve: abortNow } = deferred();
    return { clock, smtpd, abortNow, held: outcomeOf(holdOpening(smtpd, hellos, 10_000, abort)) };
  }

  it('leaves the source paused, and does not touch it afterwards', async (t) => {
    const { clock, smtpd, abortNow, held } = start(t);
    smtpd.send('220 hi\r\nafter it');
    await settle();
    assert.equal(String(held()?.forClient), 'after it');
    assert.deepEqual([smtpd.isRead(), clock.pending()], [false, 0]);
    smtpd.source.read();
    abortNow();
    await clock.pass(20_000);
    assert.ok(smtpd.isRead(), 'a source that others use is paused');
  });

  it('copies the lines of a refusal', async (t) => {
    const { smtpd, held } = start(t);
    for (const piece of ['554-', 'one\r\n55', '4 two\r\n']) smtpd.send(piece);
    await settle();
    assert.deepEqual(held()?.outcome, {
      type: 'refused',
      reply: { code: 554, texts: ['one', 'two'] },
      hello: undefined,
    });
    assert.equal(String(held()?.forClient), '554-one\r\n554 two\r\n');
  });

  it('introduces the client', async (t) => {
    const { smtpd, held } = start(t, 'EHLO me');
    smtpd.send('220 hi\r\n');
    assert.equal(smtpd.received(), 'EHLO me\r\n');
    smtpd.send('250-host\r\n250 8BITMIME\r\n');
    await settle();
    const greeting = { code: 220, texts: ['hi'] };
    const replies = [{ code: 250, texts: ['host', '8BITMIME'] }];
    assert.deepEqual(held()?.outcome, { type: 'ready', greeting, replies });
  });

  for (const [what, act, fault] of [
    ['it is aborted', (one) => one.abortNow(), 'shutting down'],
    ['nothing arrives', (one) => one.clock.pass(10_000), 'idle timeout'],
    ['a line is not a reply', (one) => one.smtpd.send('hi\r\n'), 'invalid SMTP reply'],
    ['a line contains a NUL', (one) => one.smtpd.send('220 \0\r\n'), 'invalid SMTP reply'],
    ['the output ends', (one) => one.smtpd.finish(), undefined],
    [
      'it has exited, and a process that it left behind holds its output open',
      async (one) => {
        one.smtpd.exit({ status: 3 });
        await one.clock.pass(2_000);
      },
      undefined,
    ],
  ] satisfies [string, (one: ReturnType<typeof start>) => unknown, string | undefined][]) {
    it(`gives up when ${what}`, async (t) => {
      const one = start(t);
      await act(one);
      await settle();
      assert.deepEqual(one.held()?.outcome, { type: 'broken', why: fault });
      assert.equal(one.clock.pending(), 0);
    });
  }
});
