/**
 * Compares our programs with others that do the same, and with floors that do less, side by side in one run.
 *
 * Run as `node --import tsx test/bench/bench.ts [--quick] [--full] [--rounds N] [--seconds S] [--concurrency N]
 * [--only SYSTEM,...] [--measure a,b,...] [--json FILE] [--svg FILE]`, after `make build`. The table goes to
 * stdout, progress to stderr. --full takes each measure with each certificate and each smtpd. The figures of
 * one run may be compared, those of two may not.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { makeCertificates, type Pair } from '../support/certificate.ts';
import { type Bench, type Conditions, compare } from './comparison.ts';
import { chooseCores } from './cores.ts';
import { killAll } from './daemon.ts';
import { figureOf, noFigure, type Result } from './figures.ts';
import { measureHandshake } from './handshake.ts';
import { measureIdle } from './idle.ts';
import { startClient } from './jobs.ts';
import { MEASURES, type Sizes } from './measures.ts';
import { mailfront, nullSmtpd, type Smtpd } from './smtpd.ts';
import { measureStarts } from './starts.ts';
import { makeChart } from './svg.ts';
import { listSystems, type System } from './systems.ts';
import { makeSummary, makeTables } from './table.ts';
import { makeTargets } from './targets.ts';

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    full: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    concurrency: { type: 'string' },
    only: { type: 'string' },
    measure: { type: 'string', default: 'a,b,c,d,e,f,g,h' },
    json: { type: 'string' },
    svg: { type: 'string' },
  },
});

const STANDARD: Sizes = {
  rounds: 5,
  seconds: 1.5,
  warmUp: 3,
  transfer: 400e6,
  idle: [100, 1000, 5000],
  idleSeconds: 60,
  starts: 10,
};
const QUICK: Sizes = {
  rounds: 1,
  seconds: 1,
  warmUp: 1,
  transfer: 50e6,
  idle: [50],
  idleSeconds: 10,
  starts: 2,
};

/** The conditions under which a measure is taken when not under all: [RSA or not, null smtpd or mailfront]. */
const USUAL: Readonly<Record<string, readonly (readonly [key: string, smtpd: string])[]>> = {
  a: [
    ['P-256', 'mailfront'],
    ['P-256', 'null'],
    ['RSA 2048', 'mailfront'],
  ],
  b: [['P-256', 'mailfront']],
  c: [['P-256', 'mailfront']],
  d: [['P-256', 'mailfront']],
  e: [['P-256', 'null']],
  f: [['P-256', 'mailfront']],
  h: [['P-256', 'mailfront']],
};

const letters = new Set(values.measure.split(','));
const standard = values.quick ? QUICK : STANDARD;
const sizes: Sizes = {
  ...standard,
  rounds: wholeNumber('rounds', values.rounds) ?? standard.rounds,
  seconds: wholeNumber('seconds', values.seconds) ?? standard.seconds,
};
const systems = chooseSystems(values.only);
const [loadBefore = 0] = loadavg();
const folder = mkdtempSync(join(tmpdir(), 'bench-'));
const certificates = makeCertificates();
const cores = chooseCores();
const client = startClient(cores.load);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => process.exit(1));
process.on('exit', () => {
  killAll();
  client.end();
  certificates.remove();
  rmSync(folder, { recursive: true, force: true });
});

const smtpds = [mailfront(), nullSmtpd(folder)].filter((smtpd) => smtpd !== undefined);
const bench: Bench = { systems, client, cores, sizes, folder, progress };
const results = await measureAll();
progress('');
console.log(`${describe()}\n`);
console.log(makeTables(results, systems));
console.log(makeSummary(results, systems));
console.log(makeTargets(results, systems));
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(toJson(), undefined, 2)}\n`);
if (values.svg !== undefined) writeFileSync(values.svg, makeChart(results, systems));
process.exit();

async function measureAll(): Promise<Result[]> {
  const all: Result[] = [];
  const pairs: Readonly<Record<string, Pair>> = {
    'P-256': certificates.selfSigned('bench.example'),
    'RSA 2048': certificates.selfSigned('bench.example', ['rsa:2048']),
  };
  const handshake = letters.has('a') ? measureHandshake(cores.server) : undefined;
  for (const measure of MEASURES.filter(({ letter }) => letters.has(letter))) {
    for (const conditions of conditionsOf(measure.letter, pairs)) {
      const remark = measure.letter === 'a' ? handshake?.(conditions.key) : undefined;
      const found = await compare(bench, measure, conditions);
      all.push(...found.map((result) => (remark === undefined ? result : { ...result, remark })));
    }
  }
  if (letters.has('f')) {
    for (const conditions of conditionsOf('f', pairs)) all.push(...(await measureIdle(bench, conditions)));
  }
  if (letters.has('g')) all.push(startsResult());
  return all;
}

/** Where mailfront is not installed, the null smtpd stands for it. */
function conditionsOf(letter: string, pairs: Readonly<Record<string, Pair>>): Conditions[] {
  const every = Object.entries(pairs).flatMap(([key, pair]) => smtpds.map((smtpd) => ({ key, pair, smtpd })));
  if (values.full) return every;
  const usual = USUAL[letter] ?? [];
  const wanted = every.filter(({ key, smtpd }) =>
    usual.some((one) => one[0] === key && (smtpd.name.startsWith(one[1]) || smtpds.length === 1)),
  );
  return values.quick ? wanted.slice(0, 1) : wanted;
}

function startsResult(): Result {
  const subjects = measureStarts(sizes.starts, (done) => progress(`(g) pair ${done} of ${sizes.starts}`));
  return {
    measure: 'g',
    title: 'CPU time of a start (to ours: to the empty file)',
    unit: 'ms',
    better: 'less',
    figures: subjects.map(({ name, times }) =>
      times.length === 0 ? noFigure(name, 'not built') : figureOf(name, times),
    ),
  };
}

function chooseSystems(only: string | undefined): readonly System[] {
  const concurrency = wholeNumber('concurrency', values.concurrency);
  const all = listSystems().map((system) => ({ ...system, ...(concurrency && { concurrency }) }));
  if (only === undefined) return all;
  const names = only.split(',');
  const unknown = names.find((name) => !all.some((system) => system.name === name));
  if (unknown === undefined) return all.filter(({ name }) => names.includes(name));
  throw new Error(`--only takes ${all.map(({ name }) => name).join(', ')}, not ${unknown}`);
}

function wholeNumber(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text);
  throw new Error(`--${name} takes a whole number from 1 to 9999, not ${text}`);
}

/** One line, written over the last. */
function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text.slice(0, 100)}`);
  else if (text !== '') process.stderr.write(`${text}\n`);
}

/** Other load on the machine makes the figures useless, so it is printed with them. */
function describe(): string {
  const { server, load, all, count } = cores;
  const place = server === load ? `all on core ${server}` : `server on core ${server}, load on core ${load}`;
  return [
    `Node ${process.version}, ${cpus()[0]?.model.trim()}, ${count} cores (${all}): ${place};`,
    `load average before the start ${loadBefore.toFixed(2)}, which should be near 0.`,
    `${sizes.rounds} rounds of ${sizes.seconds} s, in turn; figures are medians, spreads`,
    `from the least to the most; smtpds: ${smtpds.map((smtpd: Smtpd) => smtpd.name).join(', ')}.`,
  ].join('\n');
}

function toJson(): unknown {
  const named = systems.map(({ name, title, kind, absent }) => ({ name, title, kind, absent }));
  return { when: new Date().toISOString(), conditions: describe(), sizes, systems: named, results };
}
