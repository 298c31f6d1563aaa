/** Timeouts, with a stopped clock. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { deferred } from '../../../lib/program/deferred.ts';
import { createTicker, within } from '../../../lib/stream/time.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { stopIntervals } from '../../support/intervals.ts';
import { outcomeOf } from '../../support/test-stream.ts';

describe('within', () => {
  it('returns the value of a promise that settles in time, and cancels the timer', async (t) => {
    const clock = stopClock(t);
    const { promise, resolve } = deferred<string>();
    const outcome = outcomeOf(within(1000, promise));
    await clock.pass(999);
    assert.equal(outcome(), undefined);
    resolve('value');
    await settle();
    assert.equal(outcome(), 'value');
    assert.equal(clock.pending(), 0);
  });

  it('returns undefined when the time has passed first', async (t) => {
    const clock = stopClock(t);
    const result = within(1000, new Promise<string>(() => {}));
    await clock.pass(1000);
    assert.equal(await result, undefined);
  });

  it('throws what the promise is rejected with, and cancels the timer', async (t) => {
    const clock = stopClock(t);
    await assert.rejects(within(1000, Promise.reject(new Error('refused'))), { message: 'refused' });
    assert.equal(clock.pending(), 0);
  });

  it('ignores a rejection after the time has passed', async (t) => {
    const clock = stopClock(t);
    let reject: (error: Error) => void = () => {};
    const result = within(
      1000,
      new Promise<string>((_, no) => {
        reject = no;
      }),
    );
    await clock.pass(1000);
    reject(new Error('too late'));
    await settle();
    assert.equal(await result, undefined);
  });
});

describe('createTicker', () => {
  it('calls each function once in an interval, until it is removed', (t) => {
    const { pass } = stopIntervals(t);
    const ticker = createTicker(1000);
    const calls: string[] = [];
    const remove = ticker.add(() => calls.push('one'));
    pass(1);
    ticker.add(() => calls.push('two'));
    pass(2);
    remove();
    pass(1);
    assert.deepEqual(calls, ['one', 'one', 'two', 'one', 'two', 'two']);
  });

  it('has one timer, and none while there are no functions', (t) => {
    const { running } = stopIntervals(t);
    const ticker = createTicker(1000);
    assert.equal(running(), 0);
    const [one, two] = [ticker.add(() => {}), ticker.add(() => {})];
    assert.equal(running(), 1);
    one();
    one();
    assert.equal(running(), 1);
    two();
    assert.equal(running(), 0);
    ticker.add(() => {});
    assert.equal(running(), 1);
  });

  it('calls a function that was added twice twice', (t) => {
    const { pass } = stopIntervals(t);
    const ticker = createTicker(1000);
    let calls = 0;
    const act = (): void => {
      calls += 1;
    };
    const remove = ticker.add(act);
    ticker.add(act);
    pass(1);
    remove();
    pass(1);
    assert.equal(calls, 3);
  });

  it('calls a function that is removed by one before it no more', (t) => {
    const { pass } = stopIntervals(t);
    const ticker = createTicker(1000);
    ticker.add(() => remove());
    const remove = ticker.add(() => assert.fail('it was called'));
    pass(2);
  });
});
