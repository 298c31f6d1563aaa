/** One direction of a relay, and the end of a connection, between fake streams. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { flow } from '../../../lib/stream/flow.ts';
import { hangUp } from '../../../lib/stream/hang-up.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { createTestStream, outcomeOf, type TestStream } from '../../support/test-stream.ts';

function start(from: TestStream, to: TestStream, first = '') {
  let passed = '';
  const one = flow(from.source, to.sink, {
    first: Buffer.from(first),
    passed: (bytes) => {
      passed += Buffer.from(bytes).toString();
    },
  });
  return { ...one, outcome: outcomeOf(one.ended), passed: () => passed };
}

describe('flow', () => {
  it('does not end before a slow client has taken the last bytes, though the source has ended', async () => {
    const [from, to] = [createTestStream(), createTestStream()];
    const one = start(from, to);
    to.stall();
    from.send('tail');
    // A destroyed pipe reports its end whether the source is paused or not.
    from.finish(new Error('ECONNRESET'));
    await settle();
    assert.equal(one.outcome(), undefined, 'it has ended while bytes wait for the client');
    to.take();
    await settle();
    assert.equal(one.outcome(), 'source-ended');
    assert.equal(to.received(), 'tail');
  });

  it('reads nothing while the sink is stalled, and resumes when it is not', async () => {
    const [from, to] = [createTestStream(), createTestStream()];
    const one = start(from, to);
    assert.ok(from.isRead());
    to.stall();
    from.send('one');
    assert.deepEqual([from.isRead(), one.isStalled()], [false, true]);
    from.send('two');
    to.take();
    assert.deepEqual([from.isRead(), one.isStalled()], [true, false]);
    from.finish();
    await settle();
    assert.equal(one.outcome(), 'source-ended');
    assert.deepEqual([to.received(), one.passed(), to.overruns()], ['onetwo', 'onetwo', 0]);
  });

  it('does not read while the first bytes wait', () => {
    const [from, to] = [createTestStream(), createTestStream()];
    to.stall();
    const one = start(from, to, 'first');
    from.send('second');
    assert.deepEqual([to.received(), one.isStalled(), from.isRead()], ['first', true, false]);
    to.take();
    assert.equal(to.received(), 'firstsecond');
    assert.equal(one.passed(), 'firstsecond');
  });

  it('passes on what the source delivers after it was paused, and keeps it paused', async () => {
    const [from, to] = [createTestStream(), createTestStream()];
    const one = start(from, to);
    to.stall();
    from.send('one');
    from.push('two');
    assert.deepEqual([to.received(), one.passed(), from.isRead()], ['onetwo', 'onetwo', false]);
    to.take();
    assert.deepEqual([from.isRead(), one.isStalled()], [true, false]);
  });

  it('does not report an empty first piece as passed', () => {
    const from = createTestStream();
    let calls = 0;
    flow(from.source, createTestStream().sink, { first: Buffer.alloc(0), passed: () => (calls += 1) });
    assert.equal(calls, 0);
  });

  it('stops its source when the sink fails', async () => {
    for (const stalls of [false, true]) {
      const [from, to] = [createTestStream(), createTestStream()];
      const one = start(from, to);
      if (stalls) to.stall();
      from.send('x');
      to.fail();
      await settle();
      assert.deepEqual([one.outcome(), one.isStalled(), from.isRead()], ['sink-failed', false, false]);
    }
  });

  it('does nothing to its source and its sink after release', async () => {
    const [from, to] = [createTestStream(), createTestStream()];
    const one = start(from, to);
    to.stall();
    from.send('x');
    one.release();
    to.take();
    assert.equal(from.isRead(), false, 'it reads a source that it has released');
    from.source.read();
    from.send('y');
    to.fail();
    assert.ok(from.isRead(), 'it has paused a source that it had released');
    from.finish();
    await settle();
    assert.deepEqual([one.outcome(), to.received()], [undefined, 'x']);
  });
});

describe('hangUp', () => {
  it('half-closes, reads until the client ends, and closes only then', async (t) => {
    const clock = stopClock(t);
    const client = createTestStream();
    const ended = outcomeOf(hangUp(client).then(() => true));
    for (let piece = 0; piece < 3; piece++) client.send('unread');
    await clock.pass(1000);
    assert.deepEqual([client.hasEnded(), client.isRead(), client.closed()], [true, true, []]);
    client.finish();
    await settle();
    assert.deepEqual([ended(), client.closed(), clock.pending()], [true, ['source', 'sink'], 0]);
  });

  it('does not close before the bytes that wait have been taken', async (t) => {
    stopClock(t);
    const client = createTestStream();
    client.stall();
    client.sink.write(Buffer.from('last'));
    const ended = outcomeOf(hangUp(client).then(() => true));
    client.finish();
    await settle();
    assert.deepEqual([ended(), client.closed()], [undefined, []]);
    client.take();
    await settle();
    assert.deepEqual([ended(), client.closed()], [true, ['source', 'sink']]);
  });

  it('closes after two seconds, even if bytes still arrive', async (t) => {
    const clock = stopClock(t);
    const client = createTestStream();
    const ended = outcomeOf(hangUp(client).then(() => true));
    for (let time = 0; time < 1900; time += 100) {
      client.send('on and on');
      await clock.pass(100);
    }
    assert.equal(ended(), undefined);
    await clock.pass(100);
    assert.deepEqual([ended(), client.closed()], [true, ['source', 'sink']]);
  });

  it('closes after two seconds, though the client neither reads nor ends', async (t) => {
    const clock = stopClock(t);
    const client = createTestStream();
    client.stall();
    client.sink.write(Buffer.from('last'));
    const ended = outcomeOf(hangUp(client).then(() => true));
    await clock.pass(1999);
    assert.equal(ended(), undefined);
    await clock.pass(1);
    assert.deepEqual([ended(), client.closed()], [true, ['source', 'sink']]);
  });
});
