/**
 * The fuzzer of lib/smtp, of smtpds on demand and of URLs.
 *
 *     node --import tsx test/fuzz/fuzz.ts [--kind NAME] [--count N] [--seed S] [--only N]
 *
 * Plays a million generated cases of each kind (see kinds.ts), or `--count`, and prints the seed, with which the run
 * can be repeated; a kind of slow cases gets a part of them. `--kind` plays one kind, `--only` prints one case of it.
 * Exits 1, with a transcript, at the first case that fails.
 */

import { parseArgs } from 'node:util';
import { KINDS } from './kinds.ts';
import { describe, run } from './run.ts';

const { values } = parseArgs({
  options: {
    kind: { type: 'string' },
    count: { type: 'string', default: '1000000' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000_000) },
    only: { type: 'string' },
  },
});
const seed = Number(values.seed);
const count = Number(values.count);
if (!Number.isSafeInteger(seed) || !Number.isSafeInteger(count))
  throw new Error('--seed and --count take numbers');
const kinds = Object.entries(KINDS).filter(([kind]) => kind === (values.kind ?? kind));
if (kinds.length === 0) throw new Error(`--kind takes one of ${Object.keys(KINDS).join(', ')}`);

for (const [kind, { play, share }] of kinds) {
  if (values.only !== undefined) {
    console.log((await describe(play, seed, Number(values.only), '')).transcript);
    break;
  }
  const cases = Math.ceil((count * share) / 100);
  console.log(`fuzz: ${kind}: seed ${seed}, ${cases} cases`);
  const started = performance.now();
  const rate = (done: number): number => Math.round(done / ((performance.now() - started) / 1000));
  const finding = await run(play, seed, cases, (done) =>
    console.log(`fuzz: ${kind}: ${done} cases, ${rate(done)} a second`),
  );
  if (finding === undefined) {
    console.log(`fuzz: ${kind}: ${cases} cases succeeded, ${rate(cases)} a second`);
    continue;
  }
  console.log(finding.transcript);
  console.log(`fuzz: ${kind}: seed ${seed}, case ${finding.number}: ${finding.message}`);
  process.exitCode = 1;
  break;
}
