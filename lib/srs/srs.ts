/**
 * The Sender Rewriting Scheme: the sender of forwarded mail becomes an address of the forwarder, which can be turned into
 * the sender's again when a message to it comes back.
 *
 *   SRS0=HHHH=TT=domain=local                       at the first forwarder
 *   SRS1=HHHH=first-forwarder==HHHH=TT=domain=local at each other one
 *
 * HHHH is the start of a signature in base64; TT is the day, see stamp.ts. The character behind SRS0 or SRS1 is the
 * separator of who wrote it: "=", "+" or "-". An SRS1 address keeps the one of its SRS0 address, without the tag: this is
 * the second "=" before the inner HHHH.
 *
 * The signature is the HMAC-SHA1 of the parts behind it, in lower case and with nothing between them: TT, domain, local;
 * or first-forwarder and the inner address with its separator. docs/srs.md compares other implementations.
 *
 * Addresses are octets as latin1. Local parts are without quotes: see `unquoteLocal`.
 */

import { createHmac } from 'node:crypto';
import { equalIgnoringCase, toLowerCase } from './case.ts';
import { createStamp, isCurrentStamp } from './stamp.ts';

/** The character behind SRS0 or SRS1. */
export type SrsSeparator = '=' | '+' | '-';

/** The settings of SRS. */
export interface SrsSettings {
  /** The first one signs, all verify. */
  readonly keys: readonly [Buffer, ...Buffer[]];
  /** The length of a signature, in characters of base64: 1 to `HASH_LIMIT`. */
  readonly hashLength: number;
  /** The minimum length of a signature that is accepted. */
  readonly hashMin: number;
  /** How old an SRS0 address may be, in days: at most `MAX_AGE_LIMIT`. */
  readonly maxAge: number;
  readonly separator: SrsSeparator;
}

/** An address without quotes. */
export interface Mailbox {
  readonly local: string;
  readonly domain: string;
}

/** Why an SRS address cannot be turned back. */
export type SrsFault = 'malformed' | 'forged' | 'expired';

/** Writes and reads SRS addresses. */
export interface Srs {
  /**
   * The local part that stands for a sender: SRS1 for one that has an SRS address, otherwise SRS0.
   *
   * @param time now, in milliseconds since 1970.
   * @returns undefined if the domain cannot be part of one: it contains "=", as an address literal can.
   */
  forward(sender: Mailbox, time: number): string | undefined;
  /**
   * What an SRS local part stands for: the sender, or for SRS1 the SRS0 address of the first forwarder.
   *
   * @param time now, in milliseconds since 1970.
   */
  reverse(local: string, time: number): Mailbox | SrsFault;
}

/** The length of a whole signature in base64, without padding. */
export const HASH_LIMIT = 27;

/** Whether a local part begins as an SRS address does. */
export function isSrs(local: string): boolean {
  return /^SRS[01][=+-]/i.test(local);
}

/** Creates what writes and reads SRS addresses. */
export function createSrs({ keys, hashLength, hashMin, maxAge, separator }: SrsSettings): Srs {
  function hash(key: Buffer, parts: readonly string[]): string {
    const hmac = createHmac('sha1', key);
    for (const part of parts) hmac.update(toLowerCase(part), 'latin1');
    return hmac.digest('base64');
  }

  function sign(...parts: readonly string[]): string {
    return hash(keys[0], parts).slice(0, hashLength);
  }

  /** All of the signature must match, however long it is. Its case may have been changed on the way. */
  function verify(signature: string, ...parts: readonly string[]): boolean {
    if (signature.length < hashMin || signature.length > HASH_LIMIT) return false;
    return keys.some((key) => equalIgnoringCase(signature, hash(key, parts).slice(0, signature.length)));
  }

  function reverse0(rest: string, time: number): Mailbox | SrsFault {
    const [signature, stamp, domain, local] = split(rest, 4);
    if (stamp === undefined || !domain || !local) return 'malformed';
    if (!verify(signature, stamp, domain, local)) return 'forged';
    return isCurrentStamp(stamp, time, maxAge) ? { local, domain } : 'expired';
  }

  function reverse1(rest: string): Mailbox | SrsFault {
    const [signature, domain, inner] = split(rest, 3);
    if (!domain || !isGuarded(inner)) return 'malformed';
    return verify(signature, domain, inner) ? { local: `SRS0${inner}`, domain } : 'forged';
  }

  return {
    forward: ({ local, domain }, time) => {
      if (domain.includes('=')) return undefined;
      const wrap = (first: string, inner: string): string =>
        `SRS1${separator}${sign(first, inner)}=${first}=${inner}`;
      if (/^SRS0[=+-]/i.test(local)) return wrap(domain, local.slice(TAG_LENGTH));
      const [, first, inner] = /^SRS1[=+-]/i.test(local) ? split(local.slice(TAG_LENGTH + 1), 3) : [];
      // Otherwise it is not an SRS address, whatever it begins with.
      if (first && isGuarded(inner)) return wrap(first, inner);
      const stamp = createStamp(time);
      return `SRS0${separator}${sign(stamp, domain, local)}=${stamp}=${domain}=${local}`;
    },
    reverse: (local, time) => {
      if (!isSrs(local)) return 'malformed';
      const rest = local.slice(TAG_LENGTH + 1);
      return local.charAt(TAG_LENGTH - 1) === '0' ? reverse0(rest, time) : reverse1(rest);
    },
  };
}

const TAG_LENGTH = 4;

/** Splits at the first "=" characters, into `count` parts at most: what is behind the last of them may contain more. */
function split(text: string, count: number): [string, ...(string | undefined)[]] {
  const [first = '', ...others] = text.split('=');
  const parts = others.slice(0, count - 2);
  return others.length < count - 1 ? [first, ...parts] : [first, ...parts, others.slice(count - 2).join('=')];
}

/** Whether the inner part of an SRS1 address begins with the separator of an SRS0 address. */
function isGuarded(inner: string | undefined): inner is string {
  return inner !== undefined && /^[=+-]/.test(inner);
}
