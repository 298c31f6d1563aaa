/** The relay between a fake client and a fake program, with a stopped clock. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { deferred } from '../../../lib/program/deferred.ts';
import { type RelayEnd, type RelayOptions, relay } from '../../../lib/session/relay.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { makeChild, makeParty, outcomeOf } from '../../support/party.ts';

/** Timeouts that do not expire in these tests. */
const BOUNDS = { idleTimeout: undefined, stallTimeout: undefined, endedTimeout: 60_000 };

/** The closing reply of these tests. */
const CLOSING = '421 closing\r\n';

function start(t: TestContext, more: Partial<RelayOptions> = {}) {
  const clock = stopClock(t);
  const client = makeParty();
  const child = makeChild();
  const { promise: abort, resolve: abortNow } = deferred();
  const ends: RelayEnd[] = [];
  const closing: RelayOptions['closingReply'] = (end) => {
    ends.push(end);
    return Buffer.from(CLOSING);
  };
  const rest = { client: Buffer.alloc(0), child: Buffer.alloc(0) };
  const ended = relay({ ...BOUNDS, client, child, rest, abort, closingReply: closing, ...more });
  return { clock, client, child, abortNow, ends, outcome: outcomeOf(ended) };
}

describe('the relay', () => {
  it('continues to read the client after the program has exited, even if its input fails late', async (t) => {
    const { client, child, outcome } = start(t);
    client.send('all taken');
    child.finish();
    child.exit({ status: 0 });
    await settle();
    child.fail();
    assert.ok(client.isRead(), 'the client is no longer read: closing would reset the connection');
    client.send('and more');
    client.finish();
    await settle();
    assert.deepEqual(outcome(), { status: 0 });
  });

  it('drops the bytes that wait for the program before it reads the client again into the same buffer', async (t) => {
    const { clock, client, child } = start(t, { idleTimeout: 10_000 });
    child.stall();
    client.send('waits');
    client.send('comes later');
    await clock.pass(10_000);
    assert.ok(client.isRead());
    assert.deepEqual(child.closed(), ['sink'], 'the program reads bytes that were overwritten');
  });

  it('does not drop the input of a program that has taken everything', async (t) => {
    const { clock, client, child } = start(t, { idleTimeout: 10_000 });
    client.send('all');
    await clock.pass(10_000);
    assert.deepEqual([child.hasEnded(), child.closed()], [true, []]);
  });

  it('does not add its closing reply to bytes that wait for the client', async (t) => {
    const { client, child, abortNow, ends } = start(t);
    client.stall();
    child.send('250 a reply that waits\r\n');
    abortNow();
    await settle();
    assert.equal(ends[0]?.reason, 'aborted');
    assert.equal(client.received(), '250 a reply that waits\r\n');
  });

  it('sends its closing reply to a client that has taken everything', async (t) => {
    const { client, child, abortNow } = start(t);
    child.send('250 ok\r\n');
    abortNow();
    await settle();
    assert.equal(client.received(), `250 ok\r\n${CLOSING}`);
    assert.ok(client.hasEnded());
  });

  it('sends no closing reply to a client that is gone, and closes the output of the program', async (t) => {
    const { clock, client, child, ends, outcome } = start(t);
    client.fail();
    await settle();
    assert.deepEqual([child.closed(), ends.length], [['source'], 0]);
    child.exit({ status: 141, signal: 'SIGPIPE' });
    await clock.pass(2000);
    assert.deepEqual(outcome(), { status: 141, signal: 'SIGPIPE' });
  });

  it('begins with the bytes read before, and passes everything on', async (t) => {
    const rest = { client: Buffer.from('MAIL\r\n'), child: Buffer.from('220 late\r\n') };
    const { client, child } = start(t, { rest });
    client.send('RCPT\r\n');
    child.send('250 ok\r\n');
    assert.equal(child.received(), 'MAIL\r\nRCPT\r\n');
    assert.equal(client.received(), '220 late\r\n250 ok\r\n');
  });

  it('closes the input of the program when the client has ended, and still delivers what the program sends', async (t) => {
    const { client, child } = start(t);
    client.finish();
    await settle();
    assert.ok(child.hasEnded());
    child.send('250 late\r\n');
    assert.equal(client.received(), '250 late\r\n');
    assert.equal(client.hasEnded(), false);
  });

  it('does not end while the program runs, though its output has ended', async (t) => {
    const { clock, client, child, ends, outcome } = start(t);
    child.send('250 ok\r\n');
    child.finish();
    await clock.pass(3_600_000);
    assert.deepEqual(ends[0], { reason: 'output-ended', end: undefined, hasOutput: true, atLineStart: true });
    assert.ok(client.hasEnded());
    assert.equal(outcome(), undefined);
    client.send('still passed on');
    assert.equal(child.received(), 'still passed on');
    child.exit({ status: 4 });
    client.finish();
    await settle();
    assert.deepEqual(outcome(), { status: 4 });
    assert.equal(clock.pending(), 0);
  });

  for (const how of ['it is aborted', 'its idle timeout has passed']) {
    it(`ends a program that has closed its output when ${how}`, async (t) => {
      const { clock, child, abortNow } = start(t, { idleTimeout: 10_000 });
      child.finish();
      await clock.pass(9_999);
      assert.equal(child.hasEnded(), false);
      if (how === 'it is aborted') abortNow();
      else await clock.pass(1);
      await settle();
      assert.equal(child.hasEnded(), true);
    });
  }

  it('waits for the exit status of a program whose output has ended', async (t) => {
    const { clock, child, ends } = start(t);
    child.finish();
    await clock.pass(499);
    assert.equal(ends.length, 0);
    child.exit({ status: 3 });
    await settle();
    assert.deepEqual(ends[0]?.end, { status: 3 });
  });

  for (const [what, text, hasOutput, atLineStart] of [
    ['nothing', '', false, true],
    ['a complete line', '250 ok\r\n', true, true],
    ['half a line', '250 ok\r\n250-ha', true, false],
  ] as const) {
    it(`reports whether its closing reply would begin a line when the program has sent ${what}`, async (t) => {
      const { child, ends } = start(t);
      if (text !== '') child.send(text);
      child.finish();
      child.exit({ status: 0 });
      await settle();
      assert.deepEqual(ends, [{ reason: 'output-ended', end: { status: 0 }, hasOutput, atLineStart }]);
    });
  }
});

describe('the bounds of the relay', () => {
  it('the relay idle timeout begins again with bytes of either side', async (t) => {
    const { clock, client, child, ends } = start(t, { idleTimeout: 10_000 });
    for (let turn = 0; turn < 3; turn++) {
      await clock.pass(9_999);
      client.send('x');
      await clock.pass(9_999);
      child.send('y');
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
    const { clock, child, outcome } = start(t, { idleTimeout: 10_000 });
    await clock.pass(10_000);
    assert.ok(child.hasEnded());
    assert.deepEqual(child.signals(), []);
    await clock.pass(5_000);
    assert.deepEqual(child.signals(), ['SIGTERM']);
    await clock.pass(5_000);
    assert.deepEqual(child.signals(), ['SIGTERM', 'SIGKILL']);
    child.exit({ status: 137, signal: 'SIGKILL' });
    await settle();
    assert.equal(outcome()?.status, 137);
  });

  it('output that a process left behind holds is abandoned after two seconds without data', async (t) => {
    const { clock, client, child, ends, outcome } = start(t);
    child.exit({ status: 5 });
    await clock.pass(1_999);
    child.send('250 late\r\n');
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
    const { clock, client, child, outcome } = start(t, { endedTimeout: 60_000 });
    client.stall();
    child.send('250 last\r\n');
    child.exit({ status: 0 });
    child.finish();
    await clock.pass(50_000);
    assert.equal(outcome(), undefined);
    assert.equal(client.hasEnded(), false);
    client.take();
    client.finish();
    await clock.pass(1_000);
    assert.deepEqual(outcome(), { status: 0 });
  });

  it('a client that does not take the last bytes of a program that has exited is abandoned', async (t) => {
    const { clock, client, child, outcome } = start(t, { endedTimeout: 60_000 });
    client.stall();
    child.send('250 last\r\n');
    child.exit({ status: 0 });
    await clock.pass(70_000);
    assert.deepEqual(outcome(), { status: 0 });
    assert.deepEqual(client.closed().sort(), ['sink', 'source']);
  });
});
