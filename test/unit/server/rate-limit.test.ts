/** The rate limit of log lines that clients can cause. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { isFromWorker } from '../../../lib/server/processes/messages.ts';
import { createRateLimit } from '../../../lib/server/rate-limit.ts';

/** Sets process.uptime(), in seconds. */
function clock(t: TestContext): (seconds: number) => void {
  let now = 100;
  t.mock.method(process, 'uptime', () => now);
  return (seconds) => {
    now = seconds;
  };
}

describe('createRateLimit', () => {
  it('passes ten a second, and reports how many it suppressed', (t) => {
    const set = clock(t);
    const rateLimited = createRateLimit();
    const passed: (number | undefined)[] = [];
    const record = (suppressed: number | undefined): void => void passed.push(suppressed);
    for (let count = 0; count < 1000; count++) rateLimited(record);
    assert.deepEqual(passed, new Array(10).fill(undefined));
    set(100.9);
    rateLimited(record);
    assert.equal(passed.length, 10);
    set(101);
    for (let count = 0; count < 12; count++) rateLimited(record);
    assert.deepEqual(passed.slice(10), [991, ...new Array(9).fill(undefined)]);
    set(5000);
    rateLimited(record);
    assert.equal(passed.at(-1), 2);
  });
});

describe('isFromWorker', () => {
  const good = [
    { type: 'ready', listeners: [{ port: 25, name: '0.0.0.0:25' }] },
    { type: 'slot', slot: 1 },
    { type: 'slot', slot: 1, address: '192.0.2.1' },
    { type: 'claim', slot: 1, address: '192.0.2.1' },
    { type: 'release', slot: 1 },
    { type: 'collected', metrics: {} },
  ];
  for (const message of good) {
    it(`accepts ${JSON.stringify(message)}`, () => assert.ok(isFromWorker(message)));
  }
  const bad = [
    null,
    undefined,
    'started',
    {},
    { type: 'stop' },
    { type: 'ready' },
    { type: 'ready', listeners: [null] },
    { type: 'ready', listeners: [{ port: '25', name: 'x' }] },
    { type: 'slot' },
    { type: 'slot', slot: 1, address: 7 },
    { type: 'claim', slot: 1 },
    { type: 'collected', metrics: { sessions_total: 7 } },
    { type: 'collected' },
    { type: 'slot', slot: 0.5 },
    { type: 'claim', slot: 1, address: 'x'.repeat(65) },
  ];
  for (const message of bad) {
    it(`rejects ${JSON.stringify(message)}`, () => assert.ok(!isFromWorker(message)));
  }
});
