import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { statusOf, until } from '../support/processes.ts';
import { runShim } from '../support/shim.ts';

/**
 * How much more than a quiet session a session may ever need, in KiB, where much passes: Node lets go of
 * what was read only when some 40 MiB of it have come together.
 */
export const MARGIN_IN_MOTION = 64 * 1024;

/** The same where all stands still because somebody does not read. */
export const MARGIN_AT_REST = 16 * 1024;

/** The most memory that a process has ever had, in KiB. */
export function peakMemory(pid: number): number {
  return Number.parseInt(statusOf(pid, 'VmHWM'), 10);
}

let quiet: Promise<number> | undefined;

/** The most memory that the shim needs for a session in which little happens, in KiB. */
export function quietMemory(t: TestContext): Promise<number> {
  quiet ??= measureQuiet(t);
  return quiet;
}

async function measureQuiet(t: TestContext): Promise<number> {
  const run = await runShim(t);
  await run.client.reply();
  await run.client.startTls();
  await run.client.ask('NOOP');
  return peakMemory(await run.shim());
}

/** Prints the peak of a shim, and asserts that it is no more than a quiet session's and a margin. */
export async function assertModest(t: TestContext, shim: number, margin: number): Promise<void> {
  const peak = peakMemory(shim);
  const usual = await quietMemory(t);
  t.diagnostic(`peak ${(peak / 1024).toFixed(1)} MiB; a quiet session: ${(usual / 1024).toFixed(1)} MiB`);
  assert.ok(peak < usual + margin, `${peak} KiB, where a quiet session takes ${usual} KiB`);
}

/** Settles when nothing moves any more: a number stays what it is while the process sleeps. */
export async function standstill(pid: number, level: () => number): Promise<void> {
  let last = Number.NaN;
  let same = 0;
  await until('all stands still', () => {
    const now = level();
    same = now === last && statusOf(pid, 'State').startsWith('S') ? same + 1 : 0;
    last = now;
    return same >= 20;
  });
}
