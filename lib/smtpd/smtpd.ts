import { IGNORE } from '../stream/byte-stream.ts';
import { within } from '../stream/time.ts';
import type { Child, ChildEnd } from './process.ts';

/** How long the system may take to report a program's exit once its output has ended, in milliseconds. */
const EXIT_DELAY = 500;

/** How long a program has to exit by itself, and again after SIGTERM, in milliseconds. */
export const GRACE = 5000;

/**
 * How long the output of a program that has exited may stay open without data, in milliseconds. A process that it
 * left behind may hold it.
 */
export const ORPHAN_IDLE_TIMEOUT = 2000;

/**
 * Waits for the end of a program that has just closed its output, for a short time.
 *
 * @returns how it ended; undefined if it still runs.
 */
export function endAfterOutput(child: Child): Promise<ChildEnd | undefined> {
  return within(EXIT_DELAY, child.ended);
}

/**
 * Ends a program that is no longer needed: closes its standard input and discards its output; if it has not exited
 * after `GRACE` milliseconds, sends SIGTERM, and after as long again, SIGKILL.
 */
export async function endChild(child: Child): Promise<ChildEnd> {
  child.sink.end();
  child.source.listen(IGNORE);
  child.source.read();
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const end = await within(GRACE, child.ended);
    if (end !== undefined) return end;
    child.kill(signal);
  }
  return child.ended;
}
