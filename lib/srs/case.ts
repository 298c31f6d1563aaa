import { timingSafeEqual } from 'node:crypto';

/** A text in lower case: ASCII only, as other implementations do it. Octets of UTF-8, as latin1, do not change. */
export function toLowerCase(text: string): string {
  return text.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
}

/** Whether two texts, in latin1, are equal without regard to the case of ASCII. Takes as long for all of a length. */
export function equalIgnoringCase(one: string, other: string): boolean {
  const [left, right] = [one, other].map((text) => Buffer.from(toLowerCase(text), 'latin1'));
  return left !== undefined && right?.length === left.length && timingSafeEqual(left, right);
}
