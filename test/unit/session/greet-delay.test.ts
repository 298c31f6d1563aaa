/** The greeting delay of a session with a fake client and fake smtpds, with a stopped clock. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { startSession, type TlsOffer } from '../../../lib/session/session.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { createTestSmtpd, createTestStream, outcomeOf, type TestSmtpd } from '../../support/test-stream.ts';

const EARLY = '554 5.5.1 Wait for the greeting before sending commands, closing connection\r\n';
const NO_TLS: TlsOffer = {
  start: () => assert.fail('TLS is started'),
  decline: () => assert.fail('TLS is declined'),
};

interface Setup {
  /** In milliseconds, 5000 unless given. */
  readonly greetDelay?: number;
  /** The client is in TLS from the first byte. */
  readonly implicit?: boolean;
  /** What the client has sent before the session began. */
  readonly sent?: string;
  readonly earlyTalker?: () => void;
}

function open(t: TestContext, { greetDelay = 5_000, implicit = false, sent, earlyTalker }: Setup = {}) {
  const clock = stopClock(t);
  const client = createTestStream();
  const smtpds: TestSmtpd[] = [];
  const messages: string[] = [];
  const verdicts: string[] = [];
  if (sent !== undefined) client.send(sent);
  const session = startSession({
    terms: {
      ...{ requireTls: false, plaintextAuth: false, errorLimit: 100, fresh: false },
      ...{ idleTimeout: 300_000, relayIdleTimeout: undefined, greetDelay },
    },
    client,
    tls: implicit ? undefined : NO_TLS,
    startSmtpd: () => {
      assert.equal(client.isRead(), false, 'the client is read when smtpd is started');
      const smtpd = createTestSmtpd();
      smtpds.push(smtpd);
      return smtpd;
    },
    ...(earlyTalker && { earlyTalker }),
    concluded: (verdict) => verdicts.push(verdict),
    report: { fatal: assert.fail, info: assert.fail, warning: (text) => void messages.push(text) },
  });
  return { clock, client, session, smtpds, messages, verdicts, outcome: outcomeOf(session.ended) };
}

describe('a greeting delay', () => {
  it('starts smtpd when it has passed, and leaves alone what the client sends from then on', async (t) => {
    const { clock, client, smtpds, verdicts } = open(t);
    await clock.pass(4_999);
    assert.equal(smtpds.length, 0);
    await clock.pass(1);
    const [smtpd, ...others] = smtpds;
    assert.ok(smtpd !== undefined && others.length === 0);
    client.send('EHLO client\r\n');
    assert.equal(client.isRead(), false);
    smtpd.send('220 hi\r\n');
    await settle();
    assert.deepEqual([client.received(), smtpd.received()], ['220 hi\r\n', 'EHLO client\r\n']);
    assert.deepEqual(verdicts, []);
  });

  it('does not exist with 0: smtpd is started in the same turn', (t) => {
    const { clock, client, smtpds } = open(t, { greetDelay: 0 });
    assert.deepEqual([smtpds.length, client.isRead()], [1, false]);
    assert.equal(clock.pending(), 1, 'another timer than the idle timeout');
  });

  for (const implicit of [false, true]) {
    it(`refuses a client that sends data ${implicit ? 'in TLS' : 'in cleartext'}`, async (t) => {
      const { clock, client, smtpds, verdicts, messages, outcome } = open(t, { implicit });
      await clock.pass(4_999);
      client.send('E');
      await settle();
      assert.deepEqual([client.received(), client.hasEnded()], [EARLY, true]);
      // The rest of what it pipelines is discarded.
      client.send('HLO client\r\nMAIL FROM:<>\r\n');
      client.finish();
      await settle();
      assert.deepEqual(outcome(), { status: 0 });
      assert.deepEqual([client.received(), smtpds.length, clock.pending()], [EARLY, 0, 0]);
      assert.deepEqual(messages, ['the client sent data before the greeting, closing']);
      assert.deepEqual(verdicts, implicit ? [] : ['close']);
    });
  }

  it('refuses a client that had sent data before it began, and had half-closed', async (t) => {
    const { client, outcome } = open(t, { sent: 'EHLO client\r\n' });
    client.finish();
    await settle();
    assert.deepEqual([client.received(), outcome()], [EARLY, { status: 0 }]);
  });

  it('reports an early talker once, by the callback where there is one', async (t) => {
    let count = 0;
    const { client, messages } = open(t, {
      earlyTalker: () => {
        count += 1;
      },
    });
    client.send('EHLO ');
    client.send('client\r\n');
    await settle();
    assert.deepEqual([count, messages, client.received()], [1, [], EARLY]);
  });

  it('is followed by two seconds for an early talker to close its side', async (t) => {
    const { clock, client, outcome } = open(t, { sent: 'GET / HTTP/1.1\r\n' });
    await clock.pass(1_999);
    assert.equal(outcome(), undefined);
    await clock.pass(1);
    assert.deepEqual([outcome(), client.received()], [{ status: 0 }, EARLY]);
  });

  for (const [what, failure] of [
    ['closes', undefined],
    ['resets', new Error('ECONNRESET')],
  ] as const) {
    it(`ends without a message when the client ${what} the connection`, async (t) => {
      const { clock, client, smtpds, verdicts, messages, outcome } = open(t);
      await clock.pass(4_999);
      client.finish(failure);
      await settle();
      assert.deepEqual(outcome(), { status: 0 });
      assert.deepEqual([client.received(), smtpds.length, clock.pending()], ['', 0, 0]);
      assert.deepEqual([verdicts, messages], [['close'], []]);
      assert.deepEqual(client.closed(), ['source', 'sink']);
    });
  }

  for (const [when, milliseconds] of [
    ['in the turn in which it begins', 0],
    ['later', 4_999],
  ] as const) {
    it(`ends at once on a signal ${when}`, async (t) => {
      const { clock, session, client, smtpds, messages, outcome } = open(t);
      if (milliseconds > 0) await clock.pass(milliseconds);
      session.terminate('SIGTERM');
      session.terminate('SIGTERM');
      await settle();
      assert.equal(client.received(), '421 4.3.2 Mail server shutting down, please try again later\r\n');
      client.finish();
      await settle();
      assert.deepEqual(outcome(), { status: 111 });
      assert.deepEqual([smtpds.length, messages, clock.pending()], [0, [], 0]);
    });
  }
});
