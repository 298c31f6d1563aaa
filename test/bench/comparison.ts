/** Taking one measure of all systems, in alternating rounds. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Pair } from '../support/certificate.ts';
import type { Cores } from './cores.ts';
import { type Daemon, startDaemon } from './daemon.ts';
import { type Figure, figureOf, median, noFigure, type Result } from './figures.ts';
import type { Client, Cost } from './jobs.ts';
import type { Measure, Reading, Sizes } from './measures.ts';
import type { Smtpd } from './smtpd.ts';
import type { System } from './systems.ts';

/** What all measures have in common. */
export interface Bench {
  readonly systems: readonly System[];
  readonly client: Client;
  readonly cores: Cores;
  readonly sizes: Sizes;
  /** For files, removed at the end. */
  readonly folder: string;
  /** Shows what is being done. */
  progress(text: string): void;
}

/** Under which conditions a measure is taken. */
export interface Conditions {
  /** As the table names the kind of key. */
  readonly key: string;
  readonly pair: Pair;
  readonly smtpd: Smtpd;
}

/** A system that runs, and what its rounds have cost. */
interface Entrant {
  readonly system: System;
  readonly daemon: Daemon;
  readonly costs: Cost[];
}

/** Before it counts, every server has been at work: the code of Node's is compiled while it runs. */
const WARM_UP = { kind: 'sessions', concurrency: 8, message: 0 } as const;

/** A client that is busier than this may be what was measured. */
export const TOO_BUSY = 0.85;

/** Takes a measure of all systems. @returns a Result for each of its readings, none without a system. */
export async function compare(bench: Bench, measure: Measure, conditions: Conditions): Promise<Result[]> {
  const title = `(${measure.letter}) ${conditions.key}, ${conditions.smtpd.name}`;
  const systems = bench.systems.filter(
    ({ cleartext, takesMail }) => (measure.cleartext || !cleartext) && (takesMail || !measure.mail),
  );
  if (systems.length === 0) return [];
  const entrants: Entrant[] = [];
  const out: Figure[] = [];
  try {
    for (const system of systems) {
      bench.progress(`${title}: start of ${system.name}`);
      const entrant = await enter(bench, system, conditions);
      if ('daemon' in entrant) entrants.push(entrant);
      else out.push(entrant);
    }
    for (let round = 1; round <= bench.sizes.rounds; round++) {
      for (const { system, daemon, costs } of entrants) {
        bench.progress(`${title}: round ${round} of ${bench.sizes.rounds}: ${system.name}`);
        const task = measure.job(daemon.port, bench.sizes, system);
        costs.push(await bench.client.run({ ...task, server: daemon.pid }));
      }
    }
  } finally {
    for (const { daemon } of entrants) await daemon.end();
  }
  return measure.readings.map((reading) => ({
    measure: measure.letter,
    title: `${reading.title}; ${conditions.key}, ${conditions.smtpd.name}`,
    unit: reading.unit,
    better: reading.better,
    figures: inOrder(systems, [...entrants.map((entrant) => summarize(entrant, measure, reading)), ...out]),
  }));
}

/** Starts a system and has it take some sessions; a Figure with the reason if it does not. */
async function enter(bench: Bench, system: System, conditions: Conditions): Promise<Entrant | Figure> {
  if (system.absent !== undefined) return noFigure(system.name, system.absent);
  try {
    const daemon = await startSystem(bench, system, conditions);
    const { count, failures } = await bench.client.run({
      ...WARM_UP,
      tls: system.cleartext ? 'none' : 'full',
      seconds: bench.sizes.warmUp,
      port: daemon.port,
      server: daemon.pid,
    });
    // A slow one may not have ended any in so short a time; one that fails has.
    if (count > 0 || failures.count === 0) return { system, daemon, costs: [] };
    const words = daemon.closingReplies();
    await daemon.end();
    return noFigure(system.name, `no session: ${failures.first}: ${words}`);
  } catch (error) {
    return noFigure(system.name, error instanceof Error ? error.message : String(error));
  }
}

/** Starts a system, with a folder of its own. @throws Error when it does not come up. */
export async function startSystem(
  { folder, cores }: Pick<Bench, 'folder' | 'cores'>,
  system: System,
  { pair, smtpd }: Conditions,
): Promise<Daemon> {
  const own = join(folder, system.name);
  mkdirSync(own, { recursive: true });
  const launch = await system.launch({ pair, smtpd, folder: own });
  return startDaemon(launch, system.allCores ? cores.all : cores.server, join(own, 'stderr'));
}

function inOrder(systems: readonly System[], figures: readonly Figure[]): Figure[] {
  return systems.flatMap(({ name }) => figures.filter(({ system }) => system === name));
}

function summarize({ system, costs }: Entrant, measure: Measure, reading: Reading): Figure {
  const count = costs.reduce((sum, cost) => sum + cost.count, 0);
  const failed = costs.reduce((sum, { failures }) => sum + failures.count, 0);
  const failure = costs.find(({ failures }) => failures.count > 0)?.failures.first;
  const failureNote = failed > 0 ? [`${failed} failed: ${failure}`] : [];
  if (count === 0) return noFigure(system.name, failureNote[0] ?? 'no session has ended in time');
  const busy = Math.max(...costs.map(({ cpu, seconds }) => cpu / seconds));
  const ofSessions = 'abch'.includes(measure.letter);
  const notes = [
    ...(system.note === '' ? [] : [system.note]),
    ...(ofSessions ? [`${system.concurrency} at a time`] : []),
    ...(measure.letter === 'b' ? [`${resumedPercent(costs, count)} % resumed`] : []),
    ...(busy > TOO_BUSY ? ['the client was the limit'] : []),
    ...failureNote,
  ];
  // A round in which no session ended has a rate, which is 0, but no times.
  const figures = costs.map(reading.read).filter(Number.isFinite);
  const serverBusy = median(costs.map(({ serverCpu, seconds }) => serverCpu / seconds));
  const cpuEach = ofSessions ? cpuOfEach(costs, count) : undefined;
  return figureOf(system.name, figures, { busy, serverBusy, cpuEach, note: notes.join('; ') });
}

/** In milliseconds. */
function cpuOfEach(costs: readonly Cost[], count: number): number {
  return (costs.reduce((sum, { serverCpu }) => sum + serverCpu, 0) / count) * 1000;
}

function resumedPercent(costs: readonly Cost[], count: number): number {
  return Math.round((costs.reduce((sum, { resumed }) => sum + resumed, 0) / count) * 100);
}
