/** A short run of the fuzzer over TCP against the server; test/fuzz/tcp.ts does longer ones. */

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { runOverTcp } from '../fuzz/tcp-run.ts';

const COUNT = 1500;

for (const [kind, seed] of [
  ['the same', 1],
  ['a new', Date.now() % 1_000_000_000],
] as const) {
  it(`${COUNT} generated connections over TCP succeed (${kind} seed: ${seed})`, async () => {
    const finding = await runOverTcp(seed, 0, COUNT, 8);
    assert.equal(finding, undefined, `connection ${finding?.number}: ${finding?.message}`);
  });
}
