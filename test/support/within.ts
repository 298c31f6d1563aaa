/** How long a test waits for one thing at most, in milliseconds: many times what a busy machine needs. */
export const DEADLINE = 40_000;

/**
 * Waits for a promise, so that a test that times out reports what it was waiting for.
 *
 * @param limit in milliseconds.
 * @param what what the promise stands for; a function where the message is to show the state at the deadline.
 * @throws Error "no X within N ms", or what the promise rejects with.
 */
export async function within<T>(
  limit: number,
  what: string | (() => string),
  promise: Promise<T>,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`no ${typeof what === 'string' ? what : what()} within ${limit} ms`));
    }, limit);
  });
  try {
    return await Promise.race([promise, expired]);
  } finally {
    clearTimeout(timer);
  }
}
