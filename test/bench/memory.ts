import { basename } from 'node:path';
import { type Process, processesOf, readProc } from './processes.ts';

/** What the processes of a server hold, in KiB. */
export interface Memory {
  /** The smtpds. */
  readonly smtpd: number;
  /** All others. */
  readonly rest: number;
  /** How many processes there are that are no smtpd. */
  readonly processes: number;
}

/**
 * Adds up the proportional set size (PSS) of a server's processes: a page that n of them share counts one
 * n-th for each.
 *
 * @param leader the first process of the server.
 * @param smtpd the command line by which its smtpds are known.
 * @throws Error when the system does not let us see it.
 */
export function measureMemory(leader: number, smtpd: readonly string[]): Memory {
  const all = processesOf(leader);
  const smtpds = all.filter((process) => isSame(process.command, smtpd));
  const others = all.filter((process) => !smtpds.includes(process));
  return { smtpd: sumOfPss(smtpds), rest: sumOfPss(others), processes: others.length };
}

function isSame(command: readonly string[], smtpd: readonly string[]): boolean {
  return (
    command.length === smtpd.length &&
    command.every((word, at) => basename(word) === basename(smtpd[at] ?? ''))
  );
}

function sumOfPss(processes: readonly Process[]): number {
  return processes.reduce((sum, { pid }) => sum + pssOf(pid), 0);
}

function pssOf(pid: number): number {
  const text = readProc(`${pid}/smaps_rollup`);
  const pss = /^Pss:\s+(\d+) kB$/m.exec(text)?.[1];
  if (pss !== undefined) return Number(pss);
  // Gone since it was listed, and reaped or not; or another user's.
  if (/^$|^\d+ \(.*\) [ZX] /s.test(readProc(`${pid}/stat`))) return 0;
  throw new Error(`/proc/${pid}/smaps_rollup cannot be read; run as root`);
}

/** Memory that is to be had without swapping, in KiB. */
export function availableMemory(): number {
  return Number(/^MemAvailable:\s+(\d+) kB$/m.exec(readProc('meminfo'))?.[1] ?? 0);
}
