/**
 * The fuzzer of the dialogue.
 *
 *     node --import tsx test/fuzz/fuzz.ts [--count N] [--seed S] [--only N]
 *
 * Plays a million generated connections, or `--count`, and prints the seed, with which the run can be
 * repeated. `--only` prints one connection of a run. Exits 1, with a transcript, at the first
 * connection that fails.
 */

import { parseArgs } from 'node:util';
import { describe, run } from './run.ts';

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '1000000' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000_000) },
    only: { type: 'string' },
  },
});
const seed = Number(values.seed);
const count = Number(values.count);
if (!Number.isSafeInteger(seed) || !Number.isSafeInteger(count))
  throw new Error('--seed and --count take numbers');

if (values.only !== undefined) {
  console.log(describe(seed, Number(values.only), '').transcript);
} else {
  console.log(`fuzz: seed ${seed}, ${count} connections`);
  const started = performance.now();
  const finding = run(seed, count, (done) =>
    console.log(`fuzz: ${done} connections, ${rate(done)} a second`),
  );
  if (finding === undefined) console.log(`fuzz: ${count} connections succeeded, ${rate(count)} a second`);
  else {
    console.log(finding.transcript);
    console.log(`fuzz: seed ${seed}, connection ${finding.number}: ${finding.message}`);
    process.exitCode = 1;
  }

  function rate(done: number): number {
    return Math.round(done / ((performance.now() - started) / 1000));
  }
}
