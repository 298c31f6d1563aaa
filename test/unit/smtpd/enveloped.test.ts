/** An envelope around a fake smtpd. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import type { Reporter } from '../../../lib/program/reporter.ts';
import type { Decision } from '../../../lib/smtp/decision.ts';
import { enveloped } from '../../../lib/smtpd/enveloped.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { createTestSmtpd } from '../../support/test-stream.ts';

const ANSWER: Decision = { type: 'answer', reply: Buffer.from('250 ours\r\n') };

/** An smtpd and the user of an envelope around it, in which XOURS is answered, and XEND ends the session. */
async function start(t: TestContext, greeting = '220 host\r\n') {
  const clock = stopClock(t);
  const smtpd = createTestSmtpd();
  const warnings: string[] = [];
  const report: Reporter = { fatal() {}, warning: (text) => void warnings.push(text), info() {} };
  const stream = enveloped(smtpd, {
    report,
    decide: ({ verb }) => {
      if (verb === 'XEND') return { type: 'answer', reply: Buffer.from('421 end\r\n'), end: true };
      return verb === 'XOURS' ? ANSWER : { type: 'pass' };
    },
  });
  let read = '';
  let hasEnded = false;
  let lent = Buffer.alloc(0);
  let isStalled = false;
  stream.source.listen({
    bytes: (bytes) => {
      read += Buffer.from(bytes).toString('latin1');
    },
    ended: () => {
      hasEnded = true;
    },
  });
  stream.sink.listen({
    drained: () => {
      isStalled = false;
      // The bytes are overwritten, as those of a descriptor of ours are.
      lent.fill('#');
    },
    failed: () => assert.fail('the sink has failed'),
  });
  stream.source.read();
  smtpd.send(greeting);
  await settle();
  return {
    ...{ clock, smtpd, stream, warnings },
    read: () => read,
    hasEnded: () => hasEnded,
    isStalled: () => isStalled,
    send: async (text: string) => {
      assert.ok(!isStalled, `no room for ${text}`);
      lent = Buffer.from(text, 'latin1');
      isStalled = !stream.sink.write(lent);
      if (!isStalled) lent.fill('#');
      await settle();
    },
  };
}

describe('an envelope around an smtpd', () => {
  it('passes commands and replies, with answers in order', async (t) => {
    const { smtpd, read, send } = await start(t);
    await send('NOOP\r\nXOURS\r\nRS');
    await send('ET\r\n');
    assert.equal(smtpd.received(), 'NOOP\r\nRSET\r\n');
    smtpd.send('250 one\r\n250 two\r\n');
    await settle();
    assert.equal(read(), '220 host\r\n250 one\r\n250 ours\r\n250 two\r\n');
  });

  it('takes the first reply for the greeting, whatever the client sends before it', async (t) => {
    const { smtpd, stream, read, send } = await start(t, '');
    await send('XOURS\r\nNOOP\r\nXOURS\r\n');
    stream.sink.end();
    await settle();
    assert.equal(smtpd.received(), 'NOOP\r\n');
    smtpd.send('220-one\r\n220 two\r\n');
    await settle();
    assert.equal(read(), '220-one\r\n220 two\r\n250 ours\r\n');
    smtpd.send('250 noop\r\n');
    await settle();
    assert.equal(read(), '220-one\r\n220 two\r\n250 ours\r\n250 noop\r\n250 ours\r\n');
    assert.ok(smtpd.hasEnded());
  });

  it('keeps what an smtpd that reads nothing has not taken, and reads no more', async (t) => {
    const { smtpd, isStalled, send } = await start(t);
    smtpd.stall();
    await send('NOOP\r\nRSET\r\nXOURS\r\nHELP\r\n');
    assert.ok(isStalled());
    assert.equal(smtpd.received(), 'NOOP\r\n');
    smtpd.take();
    await settle();
    assert.ok(!isStalled());
    assert.equal(smtpd.received(), 'NOOP\r\nRSET\r\nHELP\r\n');
    assert.equal(smtpd.overruns(), 0);
  });

  it('passes a message by reference, and ends the input behind what waits', async (t) => {
    const { smtpd, stream, isStalled, send } = await start(t);
    await send('DATA\r\n');
    smtpd.send('354 go\r\n');
    await settle();
    smtpd.stall();
    await send('XOURS\r\n.\r\nNOOP\r\n');
    stream.sink.end();
    await settle();
    assert.ok(isStalled());
    assert.ok(!smtpd.hasEnded());
    smtpd.take();
    await settle();
    assert.equal(smtpd.received(), 'DATA\r\nXOURS\r\n.\r\nNOOP\r\n');
    assert.ok(smtpd.hasEnded());
  });

  it('passes the end of the client on to an smtpd that does not reply to DATA', async (t) => {
    const { smtpd, stream, isStalled, send } = await start(t);
    await send('DATA\r\n');
    assert.ok(!isStalled());
    stream.sink.end();
    await settle();
    assert.ok(smtpd.hasEnded());
  });

  it('keeps what follows DATA until the reply, and reads no more', async (t) => {
    const { smtpd, isStalled, send } = await start(t);
    await send('DATA\r\n');
    await send('NOOP\r\n');
    assert.ok(isStalled());
    smtpd.send('503 no\r\n');
    await settle();
    assert.ok(!isStalled());
    assert.equal(smtpd.received(), 'DATA\r\nNOOP\r\n');
  });

  it('reads smtpd only as fast as its user reads', async (t) => {
    const { smtpd, stream, read, send } = await start(t);
    stream.source.pause();
    await send('HELP\r\n');
    const line = `214-${'x'.repeat(994)}\r\n`;
    let sent = 0;
    while (smtpd.isRead()) {
      smtpd.send(line);
      sent += line.length;
      assert.ok(sent < 100_000, 'it reads without a bound');
    }
    smtpd.send('214 end\r\n');
    await settle();
    assert.equal(read(), '220 host\r\n');
    stream.source.read();
    await settle();
    assert.equal(read().length, '220 host\r\n214 end\r\n'.length + sent);
    assert.ok(smtpd.isRead());
  });

  it('ends with the output of smtpd', async (t) => {
    const { smtpd, read, hasEnded } = await start(t);
    smtpd.send('421 end\r\n');
    smtpd.finish();
    await settle();
    assert.equal(read(), '220 host\r\n421 end\r\n');
    assert.ok(hasEnded());
  });

  it('discards commands of a client once smtpd takes none', async (t) => {
    const { smtpd, isStalled, send } = await start(t);
    smtpd.stall();
    await send('NOOP\r\nNOOP\r\n');
    assert.ok(isStalled());
    smtpd.fail();
    await settle();
    assert.ok(!isStalled());
    await send('NOOP\r\n');
    assert.equal(smtpd.overruns(), 0);
  });

  it('ends smtpd after an answer that ends the session', async (t) => {
    const { clock, smtpd, read, hasEnded, isStalled, send } = await start(t);
    await send('XEND\r\nNOOP\r\n');
    assert.equal(read(), '220 host\r\n421 end\r\n');
    assert.ok(hasEnded());
    assert.ok(smtpd.hasEnded());
    assert.ok(!isStalled());
    await send('NOOP\r\n');
    assert.equal(smtpd.received(), '');
    await clock.pass(5000);
    assert.deepEqual(smtpd.signals(), ['SIGTERM']);
  });

  it('ends with 421 after an invalid reply', async (t) => {
    const { smtpd, read, hasEnded, warnings } = await start(t);
    smtpd.send('nonsense\r\n250 more\r\n');
    await settle();
    assert.match(read(), /^220 host\r\n421 4\.3\.0 [^\n]*\n$/);
    assert.ok(hasEnded());
    assert.ok(smtpd.hasEnded());
    assert.deepEqual(warnings, ['smtpd sent an invalid SMTP reply, closing']);
  });

  it('does not read the client then while its bytes wait for smtpd: they would be overwritten', async (t) => {
    const { smtpd, isStalled, send } = await start(t);
    await send('DATA\r\n');
    smtpd.send('354 go\r\n');
    await settle();
    smtpd.stall();
    await send('message');
    smtpd.send('nonsense\r\n');
    await settle();
    assert.ok(isStalled());
    smtpd.take();
    await settle();
    assert.ok(!isStalled());
    assert.equal(smtpd.received(), 'DATA\r\nmessage');
  });

  it('ends the input of smtpd when its user has closed the output, behind what waits', async (t) => {
    const { smtpd, stream, isStalled, send } = await start(t);
    smtpd.stall();
    await send('NOOP\r\nRSET\r\n');
    stream.source.close();
    assert.deepEqual(smtpd.closed(), ['source']);
    assert.ok(!smtpd.hasEnded());
    smtpd.take();
    await settle();
    assert.equal(smtpd.received(), 'NOOP\r\nRSET\r\n');
    assert.ok(smtpd.hasEnded());
    assert.ok(!isStalled());
    await send('NOOP\r\n');
    assert.equal(smtpd.received(), 'NOOP\r\nRSET\r\n');
  });

  it('closes the input of smtpd with its own, and discards what smtpd sends', async (t) => {
    const { smtpd, stream, read, hasEnded, send } = await start(t);
    smtpd.stall();
    await send('NOOP\r\nRSET\r\n');
    stream.sink.close();
    assert.deepEqual(smtpd.closed(), ['sink']);
    smtpd.send('250 ok\r\n');
    smtpd.finish();
    await settle();
    assert.equal(read(), '220 host\r\n');
    assert.ok(hasEnded());
  });

  it('passes signals', async (t) => {
    const { smtpd, stream } = await start(t);
    stream.kill('SIGTERM');
    assert.deepEqual(smtpd.signals(), ['SIGTERM']);
  });
});
