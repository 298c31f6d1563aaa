import type { Child, ChildEnd } from './child.ts';
import { after } from './time.ts';

/** How long the system may take to tell that a program is gone once its output has ended, in milliseconds. */
const EXIT_DELAY = 500;

/** How long a program is given to end by itself, and how long after SIGTERM, in milliseconds. */
export const GRACE = 5000;

/**
 * How long the output of a program that has ended may stay open in silence, in milliseconds: a process
 * that it left behind holds it.
 */
export const ORPHAN_IDLE_TIMEOUT = 2000;

/**
 * Learns how a program ended that has just closed its output.
 *
 * @returns undefined when it goes on without output.
 */
export async function endAfterOutput(child: Child): Promise<ChildEnd | undefined> {
  const limit = after(EXIT_DELAY);
  const end = await Promise.race([child.ended, limit.passed]);
  limit.cancel();
  return end;
}

/**
 * Ends a program that is not needed any more: its standard input is closed, what it still says is thrown
 * away, and if that is not enough, it gets SIGTERM and then SIGKILL.
 */
export async function endChild(child: Child): Promise<ChildEnd> {
  child.sink.end();
  child.source.listen({ bytes() {}, ended() {} });
  child.source.read();
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const limit = after(GRACE);
    const end = await Promise.race([child.ended, limit.passed]);
    limit.cancel();
    if (end !== undefined) return end;
    child.kill(signal);
  }
  return child.ended;
}
