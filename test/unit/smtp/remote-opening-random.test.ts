/** The opening with a remote server, which sends anything, cut anywhere. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createRemoteOpening, type RemoteOutcome } from '../../../lib/smtp/remote-opening.ts';
import { REPLY_LIMIT } from '../../../lib/smtp/reply-reader.ts';
import { createRandom } from '../../fuzz/random.ts';

const PIECES = [
  '220 far ready\r\n',
  '220-far\r\n220 ready\r\n',
  '250-far\r\n250-AUTH PLAIN LOGIN CRAM-MD5\r\n250 STARTTLS\r\n',
  '250-far\r\n250 STARTTLS\r\n',
  '250-far\r\n250 AUTH LOGIN\r\n',
  '250-far\r\n250 AUTH CRAM-MD5\r\n',
  '220 go\r\n',
  '235 ok\r\n',
  '334 \r\n',
  '334 ?not base64\r\n',
  '454 later\r\n',
  '502 no\r\n',
  '535 no\r\n',
  '250-half\r\n',
  '250-half\r\n220 mixed\r\n',
  'no reply\r\n',
  '250 \0\r\n',
  '250 \r\r\n',
  '\r\n',
  '999 x\r\n',
];

const SECRETS = /AUTH|YWxpY2U|c2VjcmV0|hmac/;

describe('the opening with a server that sends anything', () => {
  const random = createRandom(1, 0);
  const starttls = ['never', 'if-offered', 'required'] as const;

  it('sends credentials to a verified server only, believes nothing in cleartext behind the 220, and ends', () => {
    const outcomes = new Map<string, number>();
    for (let round = 0; round < 20_000; round += 1) {
      const opening = createRemoteOpening({
        verb: random.below(8) === 0 ? 'LHLO' : 'EHLO',
        name: 'me.example',
        starttls: starttls[random.below(3)] ?? 'never',
        credentials: { user: 'alice', password: 'secret' },
        hmacMd5: () => 'hmac',
      });
      let isVerified = false;
      let isDue = false;
      let steps = 0;
      const ends: RemoteOutcome['type'][] = [];
      const settle = (): void => {
        for (let step = opening.next(); step !== undefined; step = opening.next()) {
          assert.equal(ends.length, 0, 'a step after the outcome');
          steps += 1;
          if (step.type === 'outcome') ends.push(step.outcome.type);
          else if (step.type === 'start-tls') isDue = true;
          else if (!isVerified) assert.doesNotMatch(step.bytes.toString('latin1'), SECRETS);
        }
      };
      if (random.below(4) === 0) {
        isVerified = random.below(2) === 0;
        opening.tlsStarted(isVerified);
      }
      for (let count = random.below(12) + 1; count > 0 && ends.length === 0; count -= 1) {
        const piece = Buffer.from(PIECES[random.below(PIECES.length)] ?? '', 'latin1');
        const cut = random.below(piece.length + 1);
        const isTlsNow = isDue && random.below(3) > 0;
        if (isTlsNow) {
          isDue = false;
          isVerified = random.below(2) === 0;
          opening.tlsStarted(isVerified);
          settle();
        }
        const wasDue = isDue;
        for (const part of [piece.subarray(0, cut), piece.subarray(cut)]) {
          if (part.length === 0) continue;
          opening.fromServer(part);
          settle();
        }
        if (wasDue) assert.equal(ends[0], 'broken', 'it has read cleartext behind the 220');
        assert.ok(opening.rest().length <= REPLY_LIMIT);
      }
      if (ends.length === 0) opening.serverEnded();
      settle();
      const [type] = ends;
      assert.ok(type !== undefined, 'it does not end with the connection');
      assert.ok(steps <= 12, 'it sends more than the protocol has');
      outcomes.set(type, (outcomes.get(type) ?? 0) + 1);
    }
    // Otherwise this test has lost its way.
    assert.deepEqual([...outcomes.keys()].sort(), [
      'auth-refused',
      'broken',
      'no-auth',
      'no-tls',
      'ready',
      'refused',
    ]);
  });
});
