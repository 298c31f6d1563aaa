/** A moment to come. */
export interface Moment {
  /** Settles when it has come; never, when it was cancelled. */
  readonly passed: Promise<undefined>;
  /** Makes it stay away. */
  cancel(): void;
}

/** The moment `milliseconds` from now. */
export function after(milliseconds: number): Moment {
  let timer: NodeJS.Timeout | undefined;
  const passed = new Promise<undefined>((resolve) => {
    timer = setTimeout(resolve, milliseconds, undefined);
  });
  return { passed, cancel: () => clearTimeout(timer) };
}

/** Watches for silence. */
export interface IdleWatch {
  /** Something was active. */
  active(): void;
  /** Watch no more. */
  stop(): void;
}

/**
 * Calls back once when nothing was active for `milliseconds`.
 *
 * @param milliseconds at most 2^31 - 1; undefined to wait for ever.
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
