/** A promise, and the function that settles it. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
}

/** Makes a promise that settles when its `resolve` is called. */
export function deferred<T = void>(): Deferred<T> {
  let resolve: (value: T) => void = () => {};
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

/**
 * Calls `act` when a promise has settled, unless it is cancelled before. A promise that lives for a session keeps all
 * its reactions in memory, with everything that they refer to; one that is cancelled refers to nothing.
 *
 * @param promise never rejects.
 * @returns cancels the call.
 */
export function upon<T>(promise: Promise<T>, act: (value: T) => void): () => void {
  let current: ((value: T) => void) | undefined = act;
  void promise.then((value) => current?.(value));
  return () => {
    current = undefined;
  };
}
