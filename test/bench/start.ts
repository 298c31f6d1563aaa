/**
 * How much CPU time a start of our programs takes, beside `node` with an empty file: measure (g) of the bench
 * by itself, with more pairs.
 *
 * Run as `node --import tsx test/bench/start.ts [--pairs N]`. The ratio is the median over the pairs, each
 * taken in turn in the same run.
 */
import { cpus } from 'node:os';
import { parseArgs } from 'node:util';
import { median } from './figures.ts';
import { BATCH, measureStarts } from './starts.ts';

const { values } = parseArgs({ options: { pairs: { type: 'string', default: '40' } } });
const pairs = Number(values.pairs);
const subjects = measureStarts(pairs, (done) => process.stderr.write(`\rpair ${done} of ${pairs}`));
process.stderr.write('\n');

const base = subjects[0]?.times ?? [];
console.log(`Node ${process.version}, ${cpus()[0]?.model}, ${pairs} pairs of ${BATCH} starts each\n`);
console.log('| CPU time of a start | median | ratio |');
console.log('| --- | --- | --- |');
for (const { name, times } of subjects) {
  if (times.length === 0) continue;
  const ratio = median(times.map((time, pair) => time / (base[pair] ?? Number.NaN)));
  console.log(`| ${name} | ${median(times).toFixed(1)} ms | ${ratio.toFixed(3)} |`);
}
