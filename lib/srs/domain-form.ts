/**
 * SRS in the domain, which no other software has. The local part of the sender stays as it is, so it does not become too
 * long, and its domain follows a label that signs both:
 *
 *   bob@TTSSSSSSSSSSSSSS.other.example.srs.ours.example
 *
 * TT is the day, see stamp.ts; the rest is the start of a signature in base32, for domains have no case. All names under
 * srs.ours.example must have an MX record.
 *
 * The signature is the HMAC-SHA1 of "srs domain form", TT, domain and local part, in lower case and with NUL between them:
 * none of these is also one of an SRS0 or SRS1 address, and no boundary can be moved.
 */

import { createHmac } from 'node:crypto';
import { equalIgnoringCase, toLowerCase } from './case.ts';
import type { Mailbox, SrsFault, SrsSettings } from './srs.ts';
import { createStamp, isCurrentStamp, toBase32 } from './stamp.ts';

/** Writes and reads the domain form. */
export interface DomainForm {
  /**
   * The domain that stands for a sender, to be followed by ours.
   *
   * @param time now, in milliseconds since 1970.
   * @returns undefined for an address literal, and without a domain.
   */
  forward(sender: Mailbox, time: number): string | undefined;
  /**
   * The sender that an address stands for.
   *
   * @param address its domain is without ours.
   * @param time now, in milliseconds since 1970.
   */
  reverse(address: Mailbox, time: number): Mailbox | SrsFault;
}

const STAMP_LENGTH = 2;
/** 70 bits. */
const SIGNATURE_LENGTH = 14;
const LABEL = new RegExp(`^([a-z2-7]{${STAMP_LENGTH}})([a-z2-7]{${SIGNATURE_LENGTH}})\\.(.+)$`, 'is');

/** Creates what writes and reads the domain form. */
export function createDomainForm({ keys, maxAge }: Pick<SrsSettings, 'keys' | 'maxAge'>): DomainForm {
  function sign(key: Buffer, stamp: string, { local, domain }: Mailbox): string {
    const text = toLowerCase(['srs domain form', stamp, domain, local].join('\0'));
    return toBase32(createHmac('sha1', key).update(text, 'latin1').digest(), SIGNATURE_LENGTH);
  }

  return {
    forward: (sender, time) => {
      if (sender.domain === '' || sender.domain.startsWith('[')) return undefined;
      const stamp = createStamp(time);
      return `${stamp}${sign(keys[0], stamp, sender)}.${sender.domain}`;
    },
    reverse: (address, time) => {
      const [, stamp, signature, domain] = LABEL.exec(address.domain) ?? [];
      if (stamp === undefined || signature === undefined || domain === undefined) return 'malformed';
      const sender = { local: address.local, domain };
      if (!keys.some((key) => equalIgnoringCase(signature, sign(key, stamp, sender)))) return 'forged';
      return isCurrentStamp(stamp, time, maxAge) ? sender : 'expired';
    },
  };
}
