/**
 * How much CPU time a start of our programs takes, beside `node` with an empty file.
 *
 * Run as `node --import tsx test/bench/start.ts [--pairs N]`. Each figure is the CPU time, user and system, of
 * whole processes, as bash accounts for its children; the ratio is the median over the pairs, each taken in
 * turn in the same run.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { ours } from '../support/programs.ts';

/** Starts in one sample: bash tells milliseconds, and a start takes some twenty of them. */
const BATCH = 5;

const { values } = parseArgs({ options: { pairs: { type: 'string', default: '40' } } });
const folder = mkdtempSync(join(tmpdir(), 'bench-'));
const shim = ours('smtpd-starttls-proxy-io');

const subjects: readonly (readonly [name: string, command: readonly string[]])[] = [
  ['node, empty file', [process.execPath, write('empty.cjs', '')]],
  [
    'node, a file that loads node:child_process',
    [process.execPath, write('load.cjs', "require('node:child_process'); process.exit();\n")],
  ],
  // Loaded, options read, environment looked at, and there found that no UCSPI-TLS server is above.
  ['smtpd-starttls-proxy-io, up to its environment', [process.execPath, shim, 'true']],
  ['smtpd-starttls-proxy-io --version', [process.execPath, shim, '--version']],
  ['ucspi-tlsd --version', [process.execPath, ours('ucspi-tlsd'), '--version']],
  ['smtpd-maildir --version', [process.execPath, ours('smtpd-maildir'), '--version']],
];

function write(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

/** CPU time of one start, in milliseconds. */
function measure(command: readonly string[]): number {
  const script = `TIMEFORMAT='%3U %3S'; time for ((i = 0; i < ${BATCH}; i++)); do "$@" >/dev/null 2>&1; done`;
  const { NODE_EXTRA_CA_CERTS, ...env } = process.env;
  const { stderr } = spawnSync('bash', ['-c', script, 'bash', ...command], { env, encoding: 'utf8' });
  const [user, system] = stderr.trim().split(' ').map(Number);
  if (user === undefined || system === undefined || Number.isNaN(user))
    throw new Error(`bash said ${stderr}`);
  return ((user + system) * 1000) / BATCH;
}

function median(figures: readonly number[]): number {
  const sorted = [...figures].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

const samples = subjects.map((): number[] => []);
const pairs = Number(values.pairs);
for (let pair = 0; pair < pairs; pair++) {
  subjects.forEach(([, command], index) => {
    samples[index]?.push(measure(command));
  });
  process.stderr.write(`\rpair ${pair + 1} of ${pairs}`);
}
process.stderr.write('\n');
rmSync(folder, { recursive: true });

const base = samples[0] ?? [];
console.log(`Node ${process.version}, ${cpus()[0]?.model}, ${pairs} pairs of ${BATCH} starts each\n`);
console.log('| CPU time of a start | median | ratio |');
console.log('| --- | --- | --- |');
subjects.forEach(([name], index) => {
  const own = samples[index] ?? [];
  const ratio = median(own.map((figure, pair) => figure / (base[pair] ?? Number.NaN)));
  console.log(`| ${name} | ${median(own).toFixed(1)} ms | ${ratio.toFixed(3)} |`);
});
