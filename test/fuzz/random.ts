/** Numbers that look random and come again for the same seed. */
export interface Random {
  /** A whole number from 0 up to, and not with, `limit`. */
  below(limit: number): number;
  /** True in `percent` of a hundred cases. */
  chance(percent: number): boolean;
  /** One of a list, each as likely. */
  pick<T>(list: readonly [T, ...T[]]): T;
}

/**
 * Makes a source of random numbers (mulberry32: fast, and even enough for this).
 *
 * @param seed any whole number.
 * @param stream which of the many streams of that seed, such as a case's number.
 */
export function createRandom(seed: number, stream: number): Random {
  let state = Math.imul(seed ^ Math.imul(stream, 0x9e3779b1), 0x85ebca6b) | 0;

  function next(): number {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  }

  return {
    below: (limit) => Math.floor(next() * limit),
    chance: (percent) => next() * 100 < percent,
    pick: (list) => list[Math.floor(next() * list.length)] ?? list[0],
  };
}
