/** The relay between a fake client and a fake program, with a stopped clock. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { deferred } from '../../../lib/program/deferred.ts';
import { type RelayEnd, type RelayOptions, relay } from '../../../lib/session/relay.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { createTestSmtpd, createTestStream, outcomeOf } from '../../support/test-stream.ts';

/** Timeouts that do not expire in these tests. */
const BOUNDS = { idleTimeout: undefined, stallTimeout: undefined, endedTimeout: 60_000 };

/** The closing reply of these tests. */
const CLOSING = '421 closing\r\n';

function start(t: TestContext, more: Partial<RelayOptions> = {}) {
  const clock = stopClock(t);
  const client = createTestStream();
  const smtpd = createTestSmtpd();
  const { promise: abort, resolve: abortNow } = deferred();
  const ends: RelayEnd[] = [];
  const closing: RelayOptions['closingReply'] = (end) => {
    ends.push(end);
    return Buffer.from(CLOSING);
  };
  const rest = { client: Buffer.alloc(0), smtpd: Buffer.alloc(0) };
  const ended = relay({ ...BOUNDS, client, smtpd, rest, abort, closingReply: closing, ...more });
  return { clock, client, smtpd, abortNow, ends, outcome: outcomeOf(ended) };
}

describe('the relay', () => {
  it('continues to read the client after the program has exited, even if its input fails late', async (t) => {
    const { client, smtpd, outcome } = start(t);
    client.send('all taken');
    smtpd.finish();
    smtpd.exit({ status: 0 });
    await settle();
    smtpd.fail();
    assert.ok(client.isRead(), 'the client is no longer read: closing would reset the connection');
    client.send('and more');
    client.finish();
    await settle();
    assert.deepEqual(outcome(), { status: 0 });
  });

  it('drops the bytes that wait for the program before it reads the client again into the same buffer', async (t) => {
    const { clock, client, smtpd } = start(t, { idleTimeout: 10_000 });
    smtpd.stall();
    client.send('waits');
    client.send('comes later');
    await clock.pass(10_000);
    assert.ok(client.isRead());
    assert.deepEqual(smtpd.closed(), ['sink'], 'the program reads bytes that were overwritten');
  });

  it('does not drop the input of a program that has taken everything', async (t) => {
    const { clock, client, smtpd } = start(t, { idleTimeout: 10_000 });
    client.send('all');
    await clock.pass(10_000);
    assert.deepEqual([smtpd.hasEnded(), smtpd.closed()], [true, []]);
  });

  it('does not add its closing reply to bytes that wait for the client', async (t) => {
    const { client, smtpd, abortNow, ends } = start(t);
    client.stall();
    smtpd.send('250 a reply that waits\r\n');
    abortNow();
    await settle();
    assert.equal(ends[0]?.reason, 'aborted');
    assert.equal(client.received(), '250 a reply that waits\r\n');
  });

  it('sends its closing reply to a client that has taken everything', async (t) => {
    const { client, smtpd, abortNow } = start(t);
    smtpd.send('250 ok\r\n');
    abortNow();
    await settle();
    assert.equal(client.received(), `250 ok\r\n${CLOSING}`);
    assert.ok(client.hasEnded());
  });

  it('sends no closing reply to a client that is gone, and closes the output of the program', async (t) => {
    const { clock, client, smtpd, ends, outcome } = start(t);
    client.fail();
    await settle();
    assert.deepEqual([smtpd.closed(), ends.length], [['source'], 0]);
    smtpd.exit({ status: 141, signal: 'SIGPIPE' });
    await clock.pass(2000);
    assert.deepEqual(outcome(), { status: 141, signal: 'SIGPIPE' });
  });

  it('begins with the bytes read before, and passes everything on', async (t) => {
    const rest = { client: Buffer.from('MAIL\r\n'), smtpd: Buffer.from('220 late\r\n') };
    const { client, smtpd } = start(t, { rest });
    client.send('RCPT\r\n');
    smtpd.send('250 ok\r\n');
    assert.equal(smtpd.received(), 'MAIL\r\nRCPT\r\n');
    assert.equal(client.received(), '220 late\r\n250 ok\r\n');
  });

  it('closes the input of the program when the client has ended, and still delivers what the program sends', async (t) => {
    const { client, smtpd } = start(t);
    client.finish();
    await settle();
    assert.ok(smtpd.hasEnded());
    smtpd.send('250 late\r\n');
    assert.equal(client.received(), '250 late\r\n');
    assert.equal(client.hasEnded(), false);
  });

  it('does not end while the program runs, though its output has ended', async (t) => {
    const { clock, client, smtpd, ends, outcome } = start(t);
    smtpd.send('250 ok\r\n');
    smtpd.finish();
    await clock.pass(3_600_000);
    assert.deepEqual(ends[0], { reason: 'output-ended', end: undefined, hasOutput: true, atLineStart: true });
    assert.ok(client.hasEnded());
    assert.equal(outcome(), undefined);
    client.send('still passed on');
    assert.equal(smtpd.received(), 'still passed on');
    smtpd.exit({ status: 4 });
    client.finish();
    await settle();
    assert.deepEqual(outcome(), { status: 4 });
    assert.equal(clock.pending(), 0);
  });

  for (const how of ['it is aborted', 'its idle timeout has passed']) {
    it(`ends a program that has closed its output when ${how}`, async (t) => {
      const { clock, smtpd, abortNow } = start(t, { idleTimeout: 10_000 });
      smtpd.finish();
      await clock.pass(9_999);
      assert.equal(smtpd.hasEnded(), false);
      if (how === 'it is aborted') abortNow();
      else await clock.pass(1);
      await settle();
      assert.equal(smtpd.hasEnded(), true);
    });
  }

  it('waits for the exit status of a program whose output has ended', async (t) => {
    const { clock, smtpd, ends } = start(t);
    smtpd.finish();
    await clock.pass(499);
    assert.equal(ends.length, 0);
    smtpd.exit({ status: 3 });
    await settle();
    assert.deepEqual(ends[0]?.end, { status: 3 });
  });

  for (const [what, text, hasOutput, atLineStart] of [
    ['nothing', '', false, true],
    ['a complete line', '250 ok\r\n', true, true],
    ['half a line', '250 ok\r\n250-ha', true, false],
  ] as const) {
    it(`reports whether its closing reply would begin a line when the program has sent ${what}`, async (t) => {
      const { smtpd, ends } = start(t);
      if (text !== '') smtpd.send(text);
      smtpd.finish();
      smtpd.exit({ status: 0 });
      await settle();
      assert.deepEqual(ends, [{ reason: 'output-ended', end: { status: 0 }, hasOutput, atLineStart }]);
    });
  }
});

describe('the bounds of the relay', () => {
  it('the relay idle timeout begins again with bytes of either side', async (t) => {
    const { clock, client, smtpd, ends } = start(t, { idleTimeout: 10_000 });
    for (let turn = 0; turn < 3; turn++) {
      await clock.pass(9_999);
      client.send('x');
      await clock.pass(9_999);
      smtpd.send('y');
    }
    await clock.pass(9_999);
    assert.equal(ends.length, 0);
    await clock.pass(1);
    assert.equal(ends[0]?.reason, 'idle-timeout');
  });

  it('without a relay idle timeout it lasts as long as the program', async (t) => {
    const { clock, ends, outcome } = start(t);
    await clock.pass(86_400_000);
    assert.deepEqual([ends, outcome()], [[], undefined]);
  });

  it('a program that does not exit after the timeout gets SIGTERM, then SIGKILL', async (t) => {
    const { clock, smtpd, outcome } = start(t, { idleTimeout: 10_000 });
    await clock.pass(10_000);
    assert.ok(smtpd.hasEnded());
    assert.deepEqual(smtpd.signals(), []);
    await clock.pass(5_000);
    assert.deepEqual(smtpd.signals(), ['SIGTERM']);
    await clock.pass(5_000);
    assert.deepEqual(smtpd.signals(), ['SIGTERM', 'SIGKILL']);
    smtpd.exit({ status: 137, signal: 'SIGKILL' });
    await settle();
    assert.equal(outcome()?.status, 137);
  });

  it('output that a process left behind holds is abandoned after two seconds without data', async (t) => {
    const { clock, client, smtpd, ends, outcome } = start(t);
    smtpd.exit({ status: 5 });
    await clock.pass(1_999);
    smtpd.send('250 late\r\n');
    await clock.pass(1_999);
    assert.equal(ends.length, 0);
    await clock.pass(1);
    assert.deepEqual(ends[0], {
      reason: 'output-ended',
      end: { status: 5 },
      hasOutput: true,
      atLineStart: true,
    });
    client.finish();
    await settle();
    assert.deepEqual(outcome(), { status: 5 });
  });

  it('a client that reads slowly has its full timeout after the program has exited', async (t) => {
    const { clock, client, smtpd, outcome } = start(t, { endedTimeout: 60_000 });
    client.stall();
    smtpd.send('250 last\r\n');
    smtpd.exit({ status: 0 });
    smtpd.finish();
    await clock.pass(50_000);
    assert.equal(outcome(), undefined);
    assert.equal(client.hasEnded(), false);
    client.take();
    client.finish();
    await clock.pass(1_000);
    assert.deepEqual(outcome(), { status: 0 });
  });

  it('a client that does not take the last bytes of a program that has exited is abandoned', async (t) => {
    const { clock, client, smtpd, outcome } = start(t, { endedTimeout: 60_000 });
    client.stall();
    smtpd.send('250 last\r\n');
    smtpd.exit({ status: 0 });
    await clock.pass(70_000);
    assert.deepEqual(outcome(), { status: 0 });
    assert.deepEqual(client.closed().sort(), ['sink', 'source']);
  });
});
