/** The targets of --on-demand, computed from the results of one run. */
import { TOO_BUSY } from './comparison.ts';
import type { Figure, Result } from './figures.ts';
import type { System } from './systems.ts';
import { bestPeer, layOut } from './table.ts';

const OURS = 'server-on-demand';
const WITHOUT = 'server';
const FLOOR = 'least-on-demand';
const MEMORY_PEERS = ['s6-ucspitlsd', 'tlswrapper'];

/** How many times as many sessions a second as the best peer, by measure. */
const TIMES_THE_PEER: Readonly<Record<string, number>> = { a: 6, b: 6, h: 4 };
const TIMES_WITHOUT = 1;
/** At most. */
const TIMES_THE_FLOOR = 1.4;
const PART_OF_MEMORY = 0.2;

/**
 * What an idle TLS session of tcpserver + s6-ucspitlsd + a C shim takes, smtpd included, in MiB: measured once, for
 * where they are not installed.
 */
const C_CHAIN_MEMORY = 0.38;

/** A table of the targets: what was to be reached, what was, by rate and by CPU time. @returns empty without any. */
export function makeTargets(results: readonly Result[], systems: readonly System[]): string {
  const rows = results.flatMap((result) => {
    const ours = figureOf(result, OURS);
    if (ours?.median === undefined) return [];
    return [...rateRows(result, ours, systems), ...floorRows(result, ours), ...memoryRows(result, ours)];
  });
  const head = ['--on-demand', 'beside', 'target', 'reached', 'by CPU time', 'met'];
  return rows.length === 0 ? '' : `${layOut([head, ...rows])}\n`;
}

/** Beside the best peer, and with a message in each session beside the server without the option. */
function rateRows(result: Result, ours: Figure, systems: readonly System[]): string[][] {
  const peerTarget = TIMES_THE_PEER[result.measure];
  const target = result.measure === 'c' ? TIMES_WITHOUT : peerTarget;
  const other = result.measure === 'c' ? figureOf(result, WITHOUT) : bestPeer(result, systems);
  if (target === undefined || ours.median === undefined || other?.median === undefined) return [];
  const rate = ours.median / other.median;
  const cpu = ratio(other.cpuEach, ours.cpuEach);
  // A rate that the client limits is less than the server could reach.
  const isLimited = (ours.busy ?? 0) > TOO_BUSY;
  const reached = isLimited ? (cpu ?? rate) : rate;
  const remark = isLimited ? ' (the client was the limit: by CPU time)' : '';
  return [
    [
      titleOf(result),
      other.system,
      `at least ${target.toFixed(1)}`,
      rate.toFixed(2),
      cpu?.toFixed(2) ?? '',
      `${yesOrNo(reached >= target)}${remark}`,
    ],
  ];
}

/** The CPU time of a session beside that of the floor. */
function floorRows(result: Result, ours: Figure): string[][] {
  const reached = ratio(ours.cpuEach, figureOf(result, FLOOR)?.cpuEach);
  if (result.measure !== 'a' || reached === undefined) return [];
  const target = `at most ${TIMES_THE_FLOOR}`;
  return [[titleOf(result), FLOOR, target, '', reached.toFixed(2), yesOrNo(reached <= TIMES_THE_FLOOR)]];
}

/** Memory, smtpds included. */
function memoryRows(result: Result, ours: Figure): string[][] {
  if (result.withSmtpds !== true) return [];
  return MEMORY_PEERS.flatMap((name) => {
    const measured = figureOf(result, name)?.median;
    const other = measured ?? (name === 's6-ucspitlsd' ? C_CHAIN_MEMORY : undefined);
    const reached = ratio(ours.median, other);
    if (reached === undefined) return [];
    const beside = measured === undefined ? `${name} (${C_CHAIN_MEMORY} MiB, another run)` : name;
    const target = `at most ${PART_OF_MEMORY}`;
    return [[titleOf(result), beside, target, reached.toFixed(2), '', yesOrNo(reached <= PART_OF_MEMORY)]];
  });
}

function figureOf(result: Result, system: string): Figure | undefined {
  return result.figures.find((figure) => figure.system === system);
}

function ratio(one: number | undefined, other: number | undefined): number | undefined {
  return one === undefined || other === undefined ? undefined : one / other;
}

function titleOf({ measure, title }: Result): string {
  return `(${measure}) ${title}`;
}

function yesOrNo(met: boolean): string {
  return met ? 'yes' : 'no';
}
