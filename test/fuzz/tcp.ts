/**
 * The fuzzer, over TCP against running servers. Needs `make build`.
 *
 *     node --import tsx test/fuzz/tcp.ts [--count N] [--seed S] [--at-once N] [--only N]
 *
 * Plays 20,000 generated connections, or `--count`, and prints the seed, with which the run can be repeated; `--only` plays one connection of it. Exits 1 at the first that fails.
 */

import { parseArgs } from 'node:util';
import { runOverTcp } from './tcp-run.ts';

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '20000' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000_000) },
    'at-once': { type: 'string', default: '16' },
    only: { type: 'string' },
  },
});
const isOne = values.only !== undefined;
const [seed = 0, first = 0, count = 0, atOnce = 0] = [
  values.seed,
  values.only ?? '0',
  isOne ? '1' : values.count,
  values['at-once'],
].map(Number);
if (![seed, first, count, atOnce].every(Number.isSafeInteger)) throw new Error('all options take numbers');

console.log(`fuzz: seed ${seed}, ${count} connections over TCP`);
const started = performance.now();
const finding = await runOverTcp(seed, first, count, atOnce, (done) =>
  console.log(`fuzz: ${done} connections, ${rate(done)} a second`),
);
if (finding === undefined) console.log(`fuzz: ${count} connections succeeded, ${rate(count)} a second`);
else {
  console.log(`fuzz: seed ${seed}, connection ${finding.number}: ${finding.message}`);
  process.exitCode = 1;
}

function rate(done: number): number {
  return Math.round(done / ((performance.now() - started) / 1000));
}
