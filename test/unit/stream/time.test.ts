/** Timeouts, with a stopped clock. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { deferred } from '../../../lib/program/deferred.ts';
import { within } from '../../../lib/stream/time.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { outcomeOf } from '../../support/party.ts';

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
