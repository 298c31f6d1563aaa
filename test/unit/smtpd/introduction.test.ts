/** Learning how a fake smtpd introduces itself, with a stopped clock. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { deferred } from '../../../lib/program/deferred.ts';
import { learnIntroduction } from '../../../lib/smtpd/introduction.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { createTestSmtpd } from '../../support/test-stream.ts';

describe('learning an introduction', () => {
  function start(t: TestContext) {
    const clock = stopClock(t);
    const smtpd = createTestSmtpd();
    const { promise: abort, resolve: abortNow } = deferred();
    let outcome: unknown;
    learnIntroduction(smtpd, 10_000, abort).then(
      (introduction) => {
        outcome = introduction;
      },
      (error: unknown) => {
        outcome = String(error);
      },
    );
    return { clock, smtpd, abortNow, outcome: () => outcome };
  }

  it('ends with a reason when smtpd sends a little again and again', async (t) => {
    const { clock, smtpd, outcome } = start(t);
    smtpd.send('220-');
    for (let count = 0; count < 6; count++) {
      assert.ok(!smtpd.hasEnded());
      smtpd.send('x');
      await clock.pass(5_000);
    }
    assert.ok(smtpd.hasEnded());
    smtpd.exit({ status: 0 });
    await settle();
    assert.deepEqual([outcome(), clock.pending()], ['Error: timed out', 0]);
  });

  it('ends smtpd by SIGTERM when it is aborted', async (t) => {
    const { clock, smtpd, abortNow, outcome } = start(t);
    abortNow();
    await settle();
    assert.deepEqual(smtpd.signals(), ['SIGTERM']);
    smtpd.exit({ status: 143, signal: 'SIGTERM' });
    await settle();
    assert.deepEqual([outcome(), clock.pending()], ['Error: shutting down', 0]);
  });

  it('gives the three replies, and leaves no timer', async (t) => {
    const { clock, smtpd, outcome } = start(t);
    for (const reply of ['220 hi\r\n', '250-host\r\n250 SIZE\r\n', '250 host\r\n']) {
      smtpd.send(reply);
      await settle();
    }
    assert.equal(smtpd.received(), 'EHLO [127.0.0.1]\r\nHELO [127.0.0.1]\r\nQUIT\r\n');
    smtpd.exit({ status: 0 });
    await settle();
    assert.deepEqual(outcome(), {
      greeting: { code: 220, texts: ['hi'] },
      ehlo: { code: 250, texts: ['host', 'SIZE'] },
      helo: { code: 250, texts: ['host'] },
    });
    assert.equal(clock.pending(), 0);
  });
});
