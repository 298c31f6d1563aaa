import type { TestContext } from 'node:test';

/** Intervals that pass only when a test lets them. */
export interface Intervals {
  /** Lets each timer fire so many times. */
  pass(count: number): void;
  /** How many timers run. */
  running(): number;
}

/** Takes the place of `setInterval` of this process for the rest of a test. */
export function stopIntervals(t: TestContext): Intervals {
  const timers = new Set<{ readonly act: () => void }>();
  t.mock.method(globalThis, 'setInterval', (act: () => void) => {
    const timer = { act, unref: () => timer };
    timers.add(timer);
    return timer;
  });
  t.mock.method(globalThis, 'clearInterval', (timer: { readonly act: () => void }) => timers.delete(timer));
  return {
    pass: (count) => {
      for (let done = 0; done < count; done++) for (const { act } of [...timers]) act();
    },
    running: () => timers.size,
  };
}
