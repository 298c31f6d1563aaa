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
export interface SilenceWatch {
  /** Something was heard. */
  heard(): void;
  /** Watch no more. */
  stop(): void;
}

/**
 * Calls back once when nothing was heard for `milliseconds`.
 *
 * @param milliseconds at most 2^31 - 1; undefined to wait for ever.
 */
export function watchSilence(milliseconds: number | undefined, expired: () => void): SilenceWatch {
  if (milliseconds === undefined) return { heard() {}, stop() {} };
  const timer = setTimeout(expired, milliseconds);
  return {
    heard: () => {
      timer.refresh();
    },
    stop: () => clearTimeout(timer),
  };
}
