/** The base32 of SRS: 5 bits each, the most significant first. */
const DIGITS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';

/**
 * Octets in the base32 of SRS, without padding.
 *
 * @param count how many digits, of 5 bits each.
 *
 * @example
 * ```ts
 * toBase32(Buffer.from('hello'), 8); // => 'NBSWY3DP'
 * ```
 */
export function toBase32(octets: Uint8Array, count: number): string {
  let bits = '';
  for (const octet of octets) bits += octet.toString(2).padStart(8, '0');
  const digits = bits.match(/.{5}/g) ?? [];
  return digits
    .slice(0, count)
    .map((digit) => DIGITS.charAt(Number.parseInt(digit, 2)))
    .join('');
}

/** Stamps repeat after this many days: two digits. */
const WRAP = DIGITS.length ** 2;

const DAY = 86_400_000;

/** How many days a stamp may be in the future: the clock of another host that has the same key may be ahead of ours. */
const FUTURE = 1;

/** The greatest maximum age, in days. With it, one of the 1024 stamps is not valid. */
export const MAX_AGE_LIMIT = WRAP - FUTURE - 2;

/**
 * The time stamp of SRS0: the day, modulo 1024, in two digits of base32.
 *
 * @param time in milliseconds since 1970.
 *
 * @example
 * ```ts
 * createStamp(Date.UTC(2020, 0, 1)); // => '2W'
 * ```
 */
export function createStamp(time: number): string {
  const day = dayOf(time);
  return `${DIGITS.charAt(Math.floor(day / DIGITS.length))}${DIGITS.charAt(day % DIGITS.length)}`;
}

/**
 * Whether a time stamp is valid: `maxAge` days old at most, or of tomorrow.
 *
 * @param stamp in upper or lower case.
 * @param time now, in milliseconds since 1970.
 * @returns false also for what is not a stamp.
 */
export function isCurrentStamp(stamp: string, time: number, maxAge: number): boolean {
  if (!/^[a-z2-7]{2}$/i.test(stamp)) return false;
  const [high = 0, low = 0] = [...stamp.toUpperCase()].map((digit) => DIGITS.indexOf(digit));
  const age = (dayOf(time) - (high * DIGITS.length + low) + WRAP) % WRAP;
  return age <= maxAge || age >= WRAP - FUTURE;
}

function dayOf(time: number): number {
  return Math.floor(time / DAY) % WRAP;
}
