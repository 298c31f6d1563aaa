/** SRS addresses of lib/srs and of other implementations: each reads what the other has written. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createSrs, type Mailbox, type SrsSeparator } from '../../lib/srs/srs.ts';
import { createRandom } from '../fuzz/random.ts';
import { failing, missing } from '../support/programs.ts';
import {
  DEBIAN_PYTHON,
  perlSrs,
  postsrsd,
  pythonSrs,
  type StartOtherSrs,
  THEIR_DOMAIN,
} from '../support/srs-others.ts';

const OTHERS: readonly { name: string; start: StartOtherSrs; skip: string | false }[] = [
  { name: 'Mail::SRS', start: perlSrs, skip: failing('perl', '-MMail::SRS', '-e1') },
  { name: 'pysrs', start: pythonSrs, skip: failing(DEBIAN_PYTHON, '-c', 'import SRS.Guarded') },
  { name: 'postsrsd', start: postsrsd, skip: missing('postsrsd') },
];

/** For each of three separators: a thousand and two in all. */
const COUNT = 334;

const DAY = 86_400_000;
const KEYS = ['the first key', 'zweiter=Schl+ssel'] as const;
const OUR_DOMAIN = 'ours.example';
const FIRST_DOMAIN = 'First-Forwarder.example';
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+/=?^_`{|}~-";

/** Distinct senders of hosts that neither side is. */
function randomSenders(stream: number): string[] {
  const random = createRandom(20_200_101, stream);
  const word = (limit: number, letters: string): string =>
    Array.from({ length: 1 + random.below(limit) }, () => letters[random.below(letters.length)]).join('');
  return Array.from({ length: COUNT }, (_, index) => {
    const local = random.chance(30) ? `${word(10, LETTERS)}.${word(10, LETTERS)}` : word(20, LETTERS);
    return `${local}@${word(12, LETTERS.slice(0, 62))}-${index}.${word(8, LETTERS.slice(26, 52))}`;
  });
}

/** Ours, for whole addresses. */
function ours(keys: readonly string[], separator: SrsSeparator, domain = OUR_DOMAIN) {
  const [first = '', ...others] = keys;
  const srs = createSrs({
    keys: [Buffer.from(first), ...others.map((key) => Buffer.from(key))],
    ...{ hashLength: 4, hashMin: 4, maxAge: 21, separator },
  });
  return {
    forward: (senders: readonly string[], time = Date.now()) =>
      senders.map((sender) => `${srs.forward(mailboxOf(sender), time)}@${domain}`),
    reverse: (addresses: readonly (string | undefined)[]) =>
      addresses.map((address) => {
        const result = srs.reverse(mailboxOf(address ?? '').local, Date.now());
        return typeof result === 'string' ? undefined : `${result.local}@${result.domain}`;
      }),
  };
}

function mailboxOf(address: string): Mailbox {
  const at = address.lastIndexOf('@');
  return { local: address.slice(0, at), domain: address.slice(at + 1) };
}

function inLowerCase(addresses: readonly (string | undefined)[]): string[] {
  return addresses.map((address) => String(address).toLowerCase());
}

/** Changes a character of the signature. */
function forge(addresses: readonly (string | undefined)[]): string[] {
  return addresses.map((address) => {
    const signature = String(address)[5];
    return String(address).replace(/(?<=^.{5})./, signature?.toLowerCase() === 'a' ? 'b' : 'a');
  });
}

for (const { name, start, skip } of OTHERS) {
  describe(name, { skip, timeout: 120_000 }, () => {
    for (const [stream, separator] of (['=', '+', '-'] as const).entries()) {
      const senders = randomSenders(stream);
      const foreign = ours(['foreign'], separator, FIRST_DOMAIN);
      /** What the next forwarder gets: SRS0 of another, and SRS1 of another. */
      const srs0 = foreign.forward(senders);
      const srs1 = ours(['foreign too'], separator, 'second-forwarder.example').forward(srs0);

      it(`reads what we write with "${separator}"`, async (t) => {
        const other = await start(t, KEYS, separator);
        for (const key of KEYS) {
          const written = ours([key], separator).forward(senders);
          assert.deepEqual(await other.reverse(written), senders);
          assert.deepEqual(await other.reverse(ours([key], separator).forward(srs0)), srs0);
          assert.deepEqual(await other.reverse(ours([key], separator).forward(srs1)), srs0);
          assert.deepEqual(inLowerCase(await other.reverse(inLowerCase(written))), inLowerCase(senders));
        }
      });

      it(`writes with "${separator}" what we read`, async (t) => {
        for (const key of KEYS) {
          const other = await start(t, [key], separator);
          const { reverse } = ours(KEYS, separator);
          const written = await other.forward(senders);
          assert.match(written[0] ?? '', new RegExp(`^SRS0\\${separator}.*@${THEIR_DOMAIN}$`));
          assert.deepEqual(reverse(written), senders);
          assert.deepEqual(reverse(await other.forward(srs0)), srs0);
          assert.deepEqual(reverse(await other.forward(srs1)), srs0);
          assert.deepEqual(inLowerCase(reverse(inLowerCase(written))), inLowerCase(senders));
        }
      });

      it(`refuses with "${separator}" what we refuse: forged, expired, of another key`, async (t) => {
        const [key] = KEYS;
        const other = await start(t, [key], separator);
        const us = ours([key], separator);
        const bad = [
          ...forge(us.forward(senders)),
          ...forge(us.forward(srs0)),
          ...forge(await other.forward(senders)),
          ...forge(await other.forward(srs0)),
          ...us.forward(senders, Date.now() - 23 * DAY),
          ...us.forward(senders, Date.now() + 100 * DAY),
          // A few, for four characters can be equal by accident.
          ...srs0.slice(0, 3),
          ...srs1.slice(0, 3),
        ];
        assert.deepEqual(
          us.reverse(bad),
          bad.map(() => undefined),
        );
        assert.deepEqual(
          await other.reverse(bad),
          bad.map(() => undefined),
        );
      });
    }
  });
}
