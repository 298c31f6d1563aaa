import type { TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';

/** Time that passes only when a test lets it. */
export interface Clock {
  /** Lets that many milliseconds pass: the timers that are due fire in their order. */
  pass(milliseconds: number): Promise<void>;
  /** How many timers have neither fired nor been cancelled. */
  pending(): number;
}

/** Lets everything happen that can happen without time passing. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await setImmediate();
}

interface Timer {
  due: number;
  readonly fire: () => void;
}

/** Timers that fire only at `fire`, and the functions that take the place of Node's. */
export interface StoppedTimers {
  setTimeout(act: (...args: unknown[]) => void, milliseconds?: number, ...args: unknown[]): unknown;
  clearTimeout(timer?: { cancel(): void }): void;
  /** Fires the next one that is due by `end`, in milliseconds from the beginning. @returns false if there is none. */
  fire(end: number): boolean;
  /** Sets the time. */
  set(now: number): void;
  now(): number;
  /** How many timers have neither fired nor been cancelled. */
  pending(): number;
}

/** Creates such timers, from 0 milliseconds on. */
export function createStoppedTimers(): StoppedTimers {
  const timers = new Set<Timer>();
  let now = 0;
  return {
    setTimeout: (act, milliseconds = 0, ...args) => {
      const timer = { due: now + milliseconds, fire: () => act(...args) };
      let isCancelled = false;
      timers.add(timer);
      const refresh = (): void => {
        timer.due = now + milliseconds;
        // As with Node's, one that has fired starts again, and one that was cancelled does not.
        if (!isCancelled) timers.add(timer);
      };
      const cancel = (): void => {
        isCancelled = true;
        timers.delete(timer);
      };
      return { refresh, unref() {}, ref() {}, cancel };
    },
    clearTimeout: (timer) => timer?.cancel(),
    fire: (end) => {
      const [next] = [...timers].filter(({ due }) => due <= end).sort((one, other) => one.due - other.due);
      if (next === undefined) return false;
      now = next.due;
      timers.delete(next);
      next.fire();
      return true;
    },
    set: (time) => {
      now = time;
    },
    now: () => now,
    pending: () => timers.size,
  };
}

/**
 * Stops the clock for the rest of a test: `setTimeout` of this process, but for what Node uses itself. Tests that
 * do so cannot run beside others in one process. (The timers of node:test ignore `refresh` in Node 20.)
 */
export function stopClock(t: TestContext): Clock {
  const timers = createStoppedTimers();
  t.mock.method(globalThis, 'setTimeout', timers.setTimeout);
  t.mock.method(globalThis, 'clearTimeout', timers.clearTimeout);

  return {
    pending: timers.pending,
    pass: async (milliseconds) => {
      const end = timers.now() + milliseconds;
      await settle();
      while (timers.fire(end)) await settle();
      timers.set(end);
    },
  };
}
