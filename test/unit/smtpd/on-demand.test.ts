/** An smtpd that is started on demand, between a client and a fake smtpd, with a stopped clock. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import type { Introduction } from '../../../lib/smtp/prelude.ts';
import { onDemand, type SmtpdSlot } from '../../../lib/smtpd/on-demand.ts';
import type { Smtpd } from '../../../lib/smtpd/smtpd.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { createTestSmtpd, outcomeOf, type TestSmtpd } from '../../support/test-stream.ts';

const INTRODUCTION: Introduction = {
  greeting: { code: 220, texts: ['host ESMTP'] },
  ehlo: { code: 250, texts: ['host', 'PIPELINING', 'AUTH PLAIN'] },
  helo: { code: 250, texts: ['host'] },
};
const GREETING = '220 host ESMTP\r\n';
const EHLO_REPLY = '250-host\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n';

/** What a session sees of an smtpd. */
function user(smtpd: Smtpd) {
  let received = '';
  let isStalled = false;
  let hasEnded = false;
  smtpd.source.listen({
    bytes: (bytes) => {
      received += Buffer.from(bytes).toString('latin1');
    },
    ended: () => {
      hasEnded = true;
    },
  });
  smtpd.sink.listen({
    drained: () => {
      isStalled = false;
    },
    failed: () => assert.fail('the sink has failed'),
  });
  smtpd.source.read();
  return {
    received: () => received,
    hasEnded: () => hasEnded,
    isStalled: () => isStalled,
    /** Writes each piece as soon as the one before it is taken. */
    send: async (...pieces: string[]) => {
      for (const piece of pieces) {
        assert.ok(!isStalled, `no room for ${piece}`);
        // The bytes are overwritten, as those of a descriptor of ours are.
        const bytes = Buffer.from(piece, 'latin1');
        isStalled = !smtpd.sink.write(bytes);
        if (!isStalled) bytes.fill('#');
        await settle();
      }
    },
  };
}

interface Setup {
  readonly introduction?: Introduction | undefined;
  readonly slot?: () => SmtpdSlot;
  readonly errorLimit?: number;
}

function open(t: TestContext, setup: Setup = {}) {
  const clock = stopClock(t);
  const started: TestSmtpd[] = [];
  const environments: unknown[] = [];
  const notices: string[] = [];
  const start = onDemand({
    start: (environment) => {
      const smtpd = createTestSmtpd();
      started.push(smtpd);
      environments.push(environment);
      return smtpd;
    },
    introduction: () => ('introduction' in setup ? setup.introduction : INTRODUCTION),
    slot: setup.slot ?? (() => ({ admission: Promise.resolve('admitted'), release() {} })),
    idleTimeout: 10_000,
    errorLimit: setup.errorLimit ?? 100,
    notice: ({ text }) => void notices.push(text),
  });
  const real = (index = 0): TestSmtpd => {
    const smtpd = started[index];
    assert.ok(smtpd !== undefined, 'no smtpd was started');
    return smtpd;
  };
  const smtpd = start({});
  return { clock, start, smtpd, client: user(smtpd), real, started, environments, notices };
}

/** Lets a real smtpd answer greeting and EHLO. */
async function openReal(smtpd: TestSmtpd, hello = 'EHLO me'): Promise<void> {
  smtpd.send('220 real\r\n');
  await settle();
  assert.equal(smtpd.received(), `${hello}\r\n`);
  smtpd.send('250-real\r\n250 PIPELINING\r\n');
  await settle();
}

describe('an smtpd on demand', () => {
  it('answers from the introduction, and nothing is started', async (t) => {
    const { client, smtpd, started } = open(t);
    await settle();
    assert.equal(client.received(), GREETING);
    await client.send('EHLO me\r\nHELO me\r\nNOOP\r\nRSET\r\nQUIT\r\n');
    const replies = `${EHLO_REPLY}250 host\r\n250 2.0.0 OK\r\n250 2.0.0 OK\r\n221 2.0.0 Closing connection\r\n`;
    assert.equal(client.received(), GREETING + replies);
    assert.deepEqual([client.hasEnded(), await smtpd.ended, started.length], [true, { status: 0 }, 0]);
    // A session whose write is not taken reads nothing.
    assert.equal(client.isStalled(), false);
  });

  const PIPELINE = 'NOOP\r\nEHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n';
  const BEHIND = PIPELINE.slice(PIPELINE.indexOf('MAIL'));
  for (let cut = 1; cut < PIPELINE.length; cut++) {
    it(`passes on what is pipelined, cut at octet ${cut}`, async (t) => {
      const { client, real, started } = open(t);
      await client.send(PIPELINE.slice(0, cut));
      const isStarted = cut >= PIPELINE.indexOf('\n', PIPELINE.indexOf('MAIL')) + 1;
      assert.equal(started.length, isStarted ? 1 : 0);
      if (isStarted) await openReal(real());
      await client.send(PIPELINE.slice(cut));
      if (!isStarted) await openReal(real());
      assert.equal(real().received(), `EHLO me\r\n${BEHIND}`);
      real().send('250 sender\r\n250 recipient\r\n354 go\r\n');
      await settle();
      const answered = `${GREETING}250 2.0.0 OK\r\n${EHLO_REPLY}`;
      assert.equal(client.received(), `${answered}250 sender\r\n250 recipient\r\n354 go\r\n`);
      await client.send('a message\r\n.\r\n');
      assert.equal(real().received(), `EHLO me\r\n${BEHIND}a message\r\n.\r\n`);
    });
  }

  it('gives the real smtpd the environment of TLS and the name given last', async (t) => {
    const { client, start, real, environments } = open(t);
    await client.send('EHLO clear\r\n');
    const inTls = user(start({ SSL_PROTOCOL: 'TLSv1.3' }));
    await inTls.send('MAIL FROM:<>\r\n');
    assert.deepEqual(environments, [{ SSL_PROTOCOL: 'TLSv1.3' }]);
    await openReal(real(), 'EHLO clear');
    const again = user(start({ SSL_PROTOCOL: 'TLSv1.3' }));
    await again.send('helo in.tls\r\nMAIL FROM:<>\r\n');
    await openReal(real(1), 'helo in.tls');
  });

  it('takes another environment as long as nothing is started', async (t) => {
    const { client, smtpd, real, environments } = open(t);
    await client.send('EHLO me\r\n');
    assert.equal(smtpd.renew?.({ SSL_PROTOCOL: 'TLSv1.3' }), true);
    await client.send('NOOP\r\nMAIL FROM:<>\r\n');
    assert.deepEqual(environments, [{ SSL_PROTOCOL: 'TLSv1.3' }]);
    assert.equal(smtpd.renew?.({}), false);
    await openReal(real());
    assert.equal(smtpd.renew?.({}), false);
    const other = open(t, { introduction: undefined });
    assert.equal(other.smtpd.renew?.({}), false);
  });

  it('has the whole idle timeout after it has taken another environment', async (t) => {
    const { client, clock, smtpd } = open(t);
    await client.send('EHLO me\r\n');
    await clock.pass(9_000);
    smtpd.renew?.({ SSL_PROTOCOL: 'TLSv1.3' });
    await clock.pass(9_999);
    assert.equal(client.hasEnded(), false);
    await clock.pass(1);
    assert.equal(client.hasEnded(), true);
  });

  it('sends no EHLO for a client that has sent none', async (t) => {
    const { client, real } = open(t);
    await client.send('VRFY x\r\n');
    real().send('220 real\r\n');
    await settle();
    assert.equal(real().received(), 'VRFY x\r\n');
  });

  for (const [what, replies] of [
    ['greeting', ['554-no\r\n554 service\r\n']],
    ['reply to EHLO', ['220 real\r\n', '554-no\r\n554 service\r\n']],
  ] as const) {
    it(`answers the command with a negative ${what}, and relays from there`, async (t) => {
      const { client, real } = open(t);
      await client.send('EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n');
      for (const reply of replies) {
        real().send(reply);
        await settle();
      }
      assert.equal(client.received(), `${GREETING}${EHLO_REPLY}554-no\r\n554 service\r\n`);
      assert.ok(real().received().endsWith('RCPT TO:<c@d>\r\n'));
      assert.ok(!real().received().includes('MAIL'));
    });
  }

  it('ends with the client', async (t) => {
    const { client, smtpd, started } = open(t);
    await client.send('EHLO me\r\n');
    smtpd.sink.end();
    await settle();
    assert.deepEqual([client.hasEnded(), await smtpd.ended, started.length], [true, { status: 0 }, 0]);
  });

  it('passes the end of the client on behind its commands', async (t) => {
    const { client, smtpd, real } = open(t);
    await client.send('MAIL FROM:<>\r\nQUIT\r\n');
    smtpd.sink.end();
    assert.equal(real().hasEnded(), false);
    real().send('220 real\r\n');
    await settle();
    assert.deepEqual([real().received(), real().hasEnded()], ['MAIL FROM:<>\r\nQUIT\r\n', true]);
  });

  it('ends with a failure when the real smtpd fails in its opening', async (t) => {
    for (const [act, failure] of [
      [(smtpd: TestSmtpd) => smtpd.send('hello\r\n'), /: invalid SMTP reply$/],
      [(smtpd: TestSmtpd) => smtpd.finish(), /: exit status 5$/],
    ] as const) {
      const { client, smtpd, real } = open(t);
      const outcome = outcomeOf(smtpd.ended);
      await client.send('MAIL FROM:<>\r\n');
      const { length } = client.received();
      act(real());
      real().exit({ status: 5 });
      await settle();
      assert.equal(client.received().length, length);
      assert.ok(client.hasEnded());
      assert.equal(outcome()?.status, 5);
      assert.match(outcome()?.failure ?? '', failure);
    }
  });

  it('leaves nothing behind when the real smtpd sends no greeting', async (t) => {
    const { clock, client, smtpd, real } = open(t);
    const outcome = outcomeOf(smtpd.ended);
    await client.send('MAIL FROM:<>\r\n');
    await clock.pass(10_000);
    assert.deepEqual([real().hasEnded(), real().signals()], [true, ['SIGTERM']]);
    assert.equal(outcome(), undefined, 'it has ended before the real smtpd');
    real().exit({ status: 143, signal: 'SIGTERM' });
    await settle();
    assert.match(outcome()?.failure ?? '', /idle timeout/);
    assert.ok(client.hasEnded());
  });

  it('gives up an idle client', async (t) => {
    const { clock, client, smtpd } = open(t);
    for (const part of ['NO', 'OP']) {
      await client.send(part);
      await clock.pass(5_000);
    }
    assert.match(client.received(), /\r\n421 4\.4\.2 [^\n]*\r\n$/);
    assert.deepEqual([client.hasEnded(), await smtpd.ended, clock.pending()], [true, { status: 0 }, 0]);
  });

  it('does not give up a client that sends commands', async (t) => {
    const { clock, client } = open(t);
    for (let commands = 0; commands < 4; commands++) {
      await clock.pass(9_000);
      await client.send('NOOP\r\n');
    }
    assert.equal(client.received(), GREETING + '250 2.0.0 OK\r\n'.repeat(4));
  });

  it('has no idle timeout once the real smtpd has taken over', async (t) => {
    const { clock, client, smtpd, real } = open(t);
    const outcome = outcomeOf(smtpd.ended);
    await client.send('EHLO me\r\nMAIL FROM:<>\r\n');
    await openReal(real());
    assert.equal(clock.pending(), 0);
    await clock.pass(1_000_000);
    assert.equal(outcome(), undefined);
  });

  it('ends by a signal', async (t) => {
    const { smtpd, client, clock } = open(t);
    smtpd.kill('SIGTERM');
    await settle();
    assert.deepEqual(await smtpd.ended, { status: 111, signal: 'SIGTERM' });
    assert.deepEqual([client.hasEnded(), clock.pending()], [true, 0]);
  });

  it('passes signals on to the real smtpd, in its opening and afterwards', async (t) => {
    const { client, smtpd, real } = open(t);
    await client.send('MAIL FROM:<>\r\n');
    smtpd.kill('SIGINT');
    assert.deepEqual(real().signals(), ['SIGINT']);
    const other = open(t);
    await other.client.send('MAIL FROM:<>\r\n');
    other.real().send('220 real\r\n');
    await settle();
    other.smtpd.kill('SIGTERM');
    await settle();
    assert.deepEqual([other.real().signals(), other.real().hasEnded()], [['SIGTERM'], false]);
  });

  for (const end of ['source', 'sink'] as const) {
    it(`ends when the session closes its ${end}, before and in the opening of the real smtpd`, async (t) => {
      const { smtpd, started, clock } = open(t);
      smtpd[end].close();
      assert.deepEqual([await smtpd.ended, started.length, clock.pending()], [{ status: 0 }, 0, 0]);
      const other = open(t);
      await other.client.send('MAIL FROM:<>\r\n');
      other.smtpd[end].close();
      await settle();
      assert.deepEqual([other.real().hasEnded(), other.real().signals()], [true, ['SIGTERM']]);
    });

    it(`closes the ${end} of the real smtpd once that has taken over`, async (t) => {
      const { smtpd, client, real } = open(t);
      await client.send('MAIL FROM:<>\r\n');
      real().send('220 real\r\n');
      await settle();
      smtpd[end].close();
      assert.deepEqual(real().closed(), [end]);
    });
  }

  it('sends nothing to a session that has paused', async (t) => {
    const { smtpd, client } = open(t);
    smtpd.source.pause();
    await settle();
    assert.equal(client.received(), '');
  });

  it('reads no more of a client that does not read its replies', async (t) => {
    const { smtpd, client } = open(t);
    await settle();
    smtpd.source.pause();
    await client.send('NOOP\r\n'.repeat(10_000));
    assert.ok(client.isStalled());
    assert.equal(client.received(), GREETING);
    smtpd.source.read();
    await settle();
    assert.ok(!client.isStalled());
    assert.equal(client.received(), GREETING + '250 2.0.0 OK\r\n'.repeat(10_000));
  });

  it('keeps nothing that a client sends after the end and before it reads the last reply', async (t) => {
    const { smtpd, client } = open(t);
    await settle();
    smtpd.source.pause();
    await client.send('QUIT\r\n');
    const piece = Buffer.from(`${'x'.repeat(1_048_575)}\n`);
    const before = process.memoryUsage().arrayBuffers;
    for (let count = 0; count < 50; count++) assert.ok(smtpd.sink.write(piece));
    assert.ok(process.memoryUsage().arrayBuffers - before < 10 * piece.length);
    smtpd.source.read();
    await settle();
    assert.match(client.received(), /\r\n221 [^\n]*\r\n$/);
    assert.ok(client.hasEnded());
  });

  it('keeps what the real smtpd sends when it exits and the session has paused', async (t) => {
    const { client, smtpd, real } = open(t);
    await settle();
    smtpd.source.pause();
    await client.send('MAIL FROM:<>\r\n');
    real().send('220 real\r\n');
    await settle();
    for (const reply of ['451 not now\r\n', '421 bye\r\n']) real().push(reply);
    real().finish();
    await settle();
    assert.equal(client.received(), GREETING);
    smtpd.source.read();
    await settle();
    assert.equal(client.received(), `${GREETING}451 not now\r\n421 bye\r\n`);
    assert.ok(client.hasEnded());
  });

  it('is started at once while the introduction is not known', async (t) => {
    const { client, real } = open(t, { introduction: undefined });
    await client.send('EHLO me\r\n');
    real().send('220 real\r\n');
    await settle();
    assert.deepEqual([real().received(), client.received()], ['EHLO me\r\n', '220 real\r\n']);
  });
});

describe('an smtpd on demand whose user reads nothing while a write waits, as the dialogue does', () => {
  /** Writes one command; reads when it is taken. */
  async function command(smtpd: Smtpd, line: string): Promise<void> {
    smtpd.sink.listen({ drained: () => smtpd.source.read(), failed() {} });
    if (!smtpd.sink.write(Buffer.from(`${line}\r\n`))) smtpd.source.pause();
    await settle();
  }

  it('gets a reply that is larger than what may wait', async (t) => {
    const texts = Array.from({ length: 60 }, () => 'x'.repeat(1000));
    const { client, smtpd } = open(t, { introduction: { ...INTRODUCTION, ehlo: { code: 250, texts } } });
    await settle();
    await command(smtpd, 'EHLO me');
    assert.ok(client.received().length > 60_000);
  });

  it('lets others have their turn between its replies, however many commands wait', async (t) => {
    const { smtpd } = open(t);
    await settle();
    let replies = 0;
    smtpd.source.listen({
      bytes: () => {
        replies += 1;
        if (replies < 1000) smtpd.sink.write(Buffer.from('NOOP\r\n'));
      },
      ended() {},
    });
    smtpd.sink.write(Buffer.from('NOOP\r\n'));
    for (let turn = 1; turn <= 10; turn++) {
      await setImmediate();
      assert.ok(replies <= 20 * turn, `${replies} replies in ${turn} turns of the event loop`);
    }
    assert.ok(replies > 5);
  });

  it('lets others have their turn between the replies to what is pipelined in one piece', async (t) => {
    const { client, smtpd } = open(t);
    await settle();
    smtpd.sink.write(Buffer.from('NOOP\r\n'.repeat(10_000)));
    let before = client.received().length;
    for (let turn = 1; turn <= 5; turn++) {
      await setImmediate();
      const { length } = client.received();
      assert.ok(length > before, 'nothing is sent in a turn of the event loop');
      assert.ok(length - before <= 40_000, `${length - before} octets in a turn of the event loop`);
      before = length;
    }
  });

  it('gets the replies of the real smtpd', async (t) => {
    const { client, smtpd, real } = open(t);
    await command(smtpd, 'HELP');
    real().send('220 real\r\n');
    await settle();
    real().send('214 help\r\n');
    assert.equal(client.received(), `${GREETING}214 help\r\n`);
  });

  it('gets what the real smtpd sends although it is paused, when it exits', async (t) => {
    const { client, smtpd, real } = open(t);
    await settle();
    await command(smtpd, 'HELP');
    smtpd.sink.listen({ drained() {}, failed() {} });
    real().send('220 real\r\n');
    await settle();
    real().push('421 bye\r\n');
    real().finish();
    await settle();
    assert.equal(client.received(), GREETING);
    smtpd.source.read();
    await settle();
    assert.equal(client.received(), `${GREETING}421 bye\r\n`);
    assert.ok(client.hasEnded());
  });

  it('gets the end of one that fails', async (t) => {
    const { client, smtpd, real } = open(t);
    await command(smtpd, 'HELP');
    real().finish();
    real().exit({ status: 5 });
    await settle();
    assert.ok(client.hasEnded());
  });

  it('gets a 451 when there is no room', async (t) => {
    const { client, smtpd } = open(t, {
      slot: () => ({ admission: Promise.resolve('no-room'), release() {} }),
    });
    await command(smtpd, 'HELP');
    assert.match(client.received(), /\n451 /);
  });
});

describe('an smtpd on demand without room', () => {
  /** Slots that the test grants. */
  function makeSlots() {
    const waiting: ((admission: string) => void)[] = [];
    let released = 0;
    const slot = (): SmtpdSlot => ({
      admission: new Promise((resolve) => void waiting.push(resolve)),
      release: () => {
        released += 1;
      },
    });
    return {
      slot,
      grant: (admission = 'admitted') => waiting.shift()?.(admission),
      released: () => released,
    };
  }

  it('waits for a slot', async (t) => {
    const { slot, grant, released } = makeSlots();
    const { clock, client, real, started } = open(t, { slot });
    await client.send('MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n');
    await clock.pass(8_999);
    assert.equal(started.length, 0);
    grant();
    await settle();
    real().send('220 real\r\n');
    await settle();
    assert.equal(real().received(), 'MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n');
    assert.equal(released(), 0);
    real().exit({ status: 0 });
    await settle();
    assert.equal(released(), 1);
  });

  for (const [what, wait] of [
    ['the idle timeout', (one: ReturnType<typeof open>) => one.clock.pass(10_000)],
    ['a refusal', (_: ReturnType<typeof open>, grant: (admission: string) => void) => grant('no-room')],
  ] as const) {
    it(`answers 451 after ${what}, and the session goes on`, async (t) => {
      const { slot, grant, released } = makeSlots();
      const one = open(t, { slot });
      await one.client.send('MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nBDAT 5\r\nQUIT\nNOOP\r\n');
      await wait(one, grant);
      await settle();
      const codes = one.client.received().match(/^\d{3}/gm);
      assert.deepEqual([codes, one.client.isStalled()], [['220', '451', '503', '503', '250'], false]);
      assert.deepEqual([released(), one.started.length], [1, 0]);
      assert.equal(one.clock.pending(), 1, 'no idle timeout');
      await one.client.send('MAIL FROM:<again@b>\r\n');
      grant();
      if (what === 'the idle timeout') grant();
      await settle();
      one.real().send('220 real\r\n');
      await settle();
      assert.equal(one.real().received(), 'MAIL FROM:<again@b>\r\n');
    });
  }

  it('gives up its place when the session ends', async (t) => {
    const { slot, grant, released } = makeSlots();
    const { client, smtpd, started, clock } = open(t, { slot });
    await client.send('MAIL FROM:<>\r\n');
    smtpd.kill('SIGTERM');
    await settle();
    assert.deepEqual([released(), clock.pending()], [1, 0]);
    grant();
    await settle();
    assert.deepEqual([released(), started.length], [1, 0]);
  });

  it('answers 421 in place of a greeting that it cannot give', async (t) => {
    const { slot } = makeSlots();
    const { clock, client, smtpd } = open(t, { slot, introduction: undefined });
    await clock.pass(10_000);
    assert.match(client.received(), /^421 4\.3\.2 [^\n]*\r\n$/);
    assert.deepEqual([client.hasEnded(), await smtpd.ended], [true, { status: 0 }]);
  });
});
