import { createCollection } from '../program/collection.ts';

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
export function within<T>(milliseconds: number, promise: Promise<T>): Promise<T | undefined> {
  // Not Promise.race: several of these wait in every session, and it costs twice as much.
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds, undefined);
    promise.then(
      (value) => {
        clearTimeout(timer);
        resolve(value);
      },
      (error) => {
        clearTimeout(timer);
        reject(error);
      },
    );
  });
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

/** Calls functions at a fixed interval. */
export interface Ticker {
  /**
   * Calls `act` once in each interval, for the first time within one interval from now.
   *
   * @returns a function that ends this.
   */
  add(act: () => void): () => void;
}

/**
 * Makes one timer for any number of functions: a timer for each is created and inserted again for every connection.
 * It runs only while there are functions, and does not keep the process alive.
 *
 * @param milliseconds the interval, at most 2^31 - 1.
 */
export function createTicker(milliseconds: number): Ticker {
  const entries = createCollection<{ act: (() => void) | undefined }>();
  let timer: NodeJS.Timeout | undefined;

  function tick(): void {
    for (const { act } of entries.all()) act?.();
  }

  return {
    add: (act) => {
      const entry: { act: (() => void) | undefined } = { act };
      const remove = entries.add(entry);
      timer ??= setInterval(tick, milliseconds).unref();
      return () => {
        remove();
        // It may be removed in the course of a tick.
        entry.act = undefined;
        if (entries.size() > 0) return;
        clearInterval(timer);
        timer = undefined;
      };
    },
  };
}
