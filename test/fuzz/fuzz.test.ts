/** A short run of the fuzzer; test/fuzz/fuzz.ts is the long one. */

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { KINDS } from './kinds.ts';
import { run } from './run.ts';

const COUNT = 10_000;

for (const [kind, { play, share }] of Object.entries(KINDS)) {
  for (const [what, seed] of [
    ['the same', 1],
    ['a new', Date.now() % 1_000_000_000],
  ] as const) {
    const count = (COUNT * share) / 100;
    it(`${kind}: ${count} generated cases succeed (${what} seed: ${seed})`, async () => {
      const finding = await run(play, seed, count);
      assert.equal(finding, undefined, `${finding?.message}\n${finding?.transcript}`);
    });
  }
}
