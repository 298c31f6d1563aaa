/** A timeout that can be cancelled. */
export interface Timeout {
  /** Settles when the time has passed; never if it was cancelled. */
  readonly passed: Promise<undefined>;
  /** Stops the timer. */
  cancel(): void;
}

/** Starts a timeout of `milliseconds`, at most 2^31 - 1. */
export function after(milliseconds: number): Timeout {
  let timer: NodeJS.Timeout | undefined;
  const passed = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, milliseconds, undefined);
  });
  return { passed, cancel: () => clearTimeout(timer) };
}

/**
 * Waits for a promise, for at most `milliseconds` (at most 2^31 - 1).
 *
 * @returns its value; undefined if the time has passed first.
 * @throws what it is rejected with, unless the time has passed first.
 */
export async function within<T>(milliseconds: number, promise: Promise<T>): Promise<T | undefined> {
  const limit = after(milliseconds);
  try {
    return await Promise.race([promise, limit.passed]);
  } finally {
    limit.cancel();
  }
}

/** A running idle timeout. */
export interface IdleWatch {
  /** There was activity: the timeout starts again. */
  active(): void;
  /** Stops the timeout. */
  stop(): void;
}

/**
 * Calls `expired` once, when there was no activity for `milliseconds`.
 *
 * @param milliseconds at most 2^31 - 1; undefined for no timeout.
 */
export function watchIdle(milliseconds: number | undefined, expired: () => void): IdleWatch {
  if (milliseconds === undefined) return { active() {}, stop() {} };
  const timer = setTimeout(expired, milliseconds);
  return {
    active: () => {
      timer.refresh();
    },
    stop: () => clearTimeout(timer),
  };
}
