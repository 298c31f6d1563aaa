/** Reactions to promises that can be cancelled. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { deferred, upon } from '../../../lib/program/deferred.ts';
import { settle } from '../../support/clock.ts';

describe('upon', () => {
  it('calls the function with the value when the promise settles', async () => {
    const { promise, resolve } = deferred<string>();
    const values: string[] = [];
    upon(promise, (value) => values.push(value));
    await settle();
    assert.deepEqual(values, []);
    resolve('value');
    await settle();
    assert.deepEqual(values, ['value']);
  });

  it('does not call it once it is cancelled, not even right after the promise has settled', async () => {
    const { promise, resolve } = deferred();
    const calls: string[] = [];
    const cancel = upon(promise, () => calls.push('cancelled'));
    upon(promise, () => calls.push('other'));
    resolve();
    cancel();
    await settle();
    assert.deepEqual(calls, ['other']);
  });
});
