/** A short run of the fuzzer; test/fuzz/fuzz.ts is the long one. */

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { run } from './run.ts';

const COUNT = 10_000;

for (const [kind, seed] of [
  ['the same', 1],
  ['a new', Date.now() % 1_000_000_000],
] as const) {
  it(`${COUNT} generated connections succeed (${kind} seed: ${seed})`, () => {
    const finding = run(seed, COUNT);
    assert.equal(finding, undefined, `${finding?.message}\n${finding?.transcript}`);
  });
}
