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

/**
 * Stops the clock for the rest of a test: `setTimeout` of this process, but for what Node uses itself. Tests that
 * do so cannot run beside others in one process. (The timers of node:test ignore `refresh` in Node 20.)
 */
export function stopClock(t: TestContext): Clock {
  const timers = new Set<Timer>();
  let now = 0;

  function start(act: (...args: unknown[]) => void, milliseconds = 0, ...args: unknown[]): unknown {
    const timer = { due: now + milliseconds, fire: () => act(...args) };
    timers.add(timer);
    const refresh = (): void => {
      timer.due = now + milliseconds;
      // A timer that has fired starts again, as Node's do.
      timers.add(timer);
    };
    return { refresh, unref() {}, ref() {}, cancel: () => timers.delete(timer) };
  }
  t.mock.method(globalThis, 'setTimeout', start);
  t.mock.method(globalThis, 'clearTimeout', (timer?: { cancel(): void }) => timer?.cancel());

  return {
    pending: () => timers.size,
    pass: async (milliseconds) => {
      const end = now + milliseconds;
      await settle();
      for (;;) {
        const [next] = [...timers].filter(({ due }) => due <= end).sort((one, other) => one.due - other.due);
        if (next === undefined) break;
        now = next.due;
        timers.delete(next);
        next.fire();
        await settle();
      }
      now = end;
    },
  };
}
