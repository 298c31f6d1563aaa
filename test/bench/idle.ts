/** Measure (f): what idle TLS sessions hold. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type Bench, type Conditions, startSystem } from './comparison.ts';
import { type Figure, figureOf, noFigure, type Result } from './figures.ts';
import { availableMemory, type Memory, measureMemory } from './memory.ts';
import type { System } from './systems.ts';

/** How long a server may take to come to rest, in milliseconds. */
const REST_LIMIT = 5_000;

/** What one system held with so many sessions. */
interface Sample {
  /** As many as were asked for, or fewer. */
  readonly asked: number;
  readonly count: number;
  readonly base: Memory;
  readonly memory: Memory;
}

/**
 * Measures all systems, one after the other: memory is not what others disturb.
 *
 * @returns two Results for each number of sessions, in MiB a session above what the system holds without any: one
 * without the smtpds, which are the same for all that start one for each session, and one with them.
 */
export async function measureIdle(bench: Bench, conditions: Conditions): Promise<Result[]> {
  const found = new Map<string, readonly Sample[] | string>();
  for (const system of bench.systems.filter(({ cleartext }) => !cleartext)) {
    found.set(system.name, system.absent ?? (await holdSessions(bench, system, conditions)));
  }
  if (found.size === 0) return [];
  return bench.sizes.idle.flatMap((asked) =>
    [false, true].map((withSmtpds) => {
      const what = withSmtpds ? 'memory (PSS) with smtpds' : 'memory (PSS) without smtpds';
      return {
        measure: 'f',
        title: `${what}, ${asked} idle TLS sessions; ${conditions.key}, ${conditions.smtpd.name}`,
        unit: 'MiB a session',
        better: 'less' as const,
        withSmtpds,
        figures: [...found].map(([name, samples]) => figureOfSamples(name, samples, asked, withSmtpds)),
      };
    }),
  );
}

function figureOfSamples(
  name: string,
  samples: readonly Sample[] | string,
  asked: number,
  withSmtpds: boolean,
): Figure {
  if (typeof samples === 'string') return noFigure(name, samples);
  const sample = samples.find((one) => one.asked === asked);
  if (sample === undefined) return noFigure(name, 'not tried: too many processes, or too little memory');
  const { memory, base, count } = sample;
  const notes = [
    ...(count < asked ? [`only ${count} opened in time`] : []),
    `${mib(memory.rest)} MiB over ${memory.processes} processes`,
    `${mib(base.rest)} MiB with no session`,
    `smtpds: ${mib(memory.smtpd)} MiB`,
  ];
  const more = memory.rest - base.rest + (withSmtpds ? memory.smtpd - base.smtpd : 0);
  return figureOf(name, [more / 1024 / count], { note: notes.join('; ') });
}

function mib(kib: number): string {
  return (kib / 1024).toFixed(1);
}

/** The samples of one system, or why there are none. */
async function holdSessions(
  bench: Bench,
  system: System,
  conditions: Conditions,
): Promise<readonly Sample[] | string> {
  const { client, sizes, progress } = bench;
  const samples: Sample[] = [];
  let daemon: Awaited<ReturnType<typeof startSystem>> | undefined;
  try {
    daemon = await startSystem(bench, system, conditions);
    const { pid, port } = daemon;
    const take = (): Memory => measureMemory(pid, conditions.smtpd.command);
    // The first session loads code that stays.
    await client.run({
      kind: 'sessions',
      port,
      seconds: 0.5,
      server: pid,
      concurrency: 1,
      tls: 'full',
      message: 0,
    });
    const base = await atRest(take);
    for (const asked of sizes.idle) {
      if (asked > system.idleLimit || tooDear(samples.at(-1), asked)) break;
      progress(`(f) ${conditions.key}, ${conditions.smtpd.name}: ${asked} sessions: ${system.name}`);
      const { concurrency } = system;
      const limit = { seconds: sizes.idleSeconds, concurrency };
      const held = await client.run({ kind: 'hold', port, server: pid, count: asked, ...limit });
      if (held.count === 0) return `no session: ${held.failures.first}: ${daemon.closingReplies()}`;
      samples.push({ asked, count: held.count, base, memory: await atRest(take) });
    }
    return samples;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  } finally {
    if (daemon !== undefined) await client.run({ kind: 'release', server: daemon.pid });
    await daemon?.end();
  }
}

/** Takes samples until two in a row are alike, to a hundredth, or time is over. */
async function atRest(take: () => Memory): Promise<Memory> {
  let last = take();
  for (const end = Date.now() + REST_LIMIT; Date.now() < end; ) {
    await sleep(300);
    const next = take();
    const [before, after] = [last, next].map(({ smtpd, rest }) => smtpd + rest);
    last = next;
    if (before !== undefined && after !== undefined && Math.abs(after - before) < before / 100) break;
  }
  return last;
}

/** Whether so many sessions would take more than half of the memory that is left: a kernel kills then. */
function tooDear(last: Sample | undefined, count: number): boolean {
  if (last === undefined) return false;
  const each = (last.memory.rest + last.memory.smtpd - last.base.rest - last.base.smtpd) / last.count;
  return each * (count - last.count) > availableMemory() / 2;
}
