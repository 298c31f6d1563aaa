/** A property that should hold and does not. */
export class Violation extends Error {
  override name = 'Violation';
}

/** @throws Violation unless it holds. */
export function check(holds: boolean, what: string): void {
  if (!holds) throw new Violation(what);
}

/** @throws Violation unless both are the same. */
export function checkSame(actual: string, expected: string, what = ''): void {
  if (actual === expected) return;
  throw new Violation(`${what}did ${JSON.stringify(actual)}, should ${JSON.stringify(expected)}`);
}
