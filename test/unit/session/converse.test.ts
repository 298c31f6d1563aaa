/** The driver of the dialogue, between a fake client and a fake smtpd, with a stopped clock. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { deferred } from '../../../lib/program/deferred.ts';
import { converse } from '../../../lib/session/converse.ts';
import { createDialogue } from '../../../lib/smtp/dialogue.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { createTestSmtpd, createTestStream, outcomeOf } from '../../support/test-stream.ts';

/** The idle timeout of these tests, in milliseconds. */
const IDLE = 300_000;

function start(t: TestContext) {
  const clock = stopClock(t);
  const client = createTestStream();
  const smtpd = createTestSmtpd();
  const messages: string[] = [];
  const { promise: stopping, resolve: terminate } = deferred();
  const { promise: abort, resolve: abortNow } = deferred();
  const verdict = converse({
    dialogue: createDialogue({ requireTls: false, plaintextAuth: false, errorLimit: 100 }),
    ...{ client, smtpd, idleTimeout: IDLE, stopping, abort },
    report: {
      fatal: (text) => void messages.push(`fatal: ${text}`),
      warning: (text) => void messages.push(`warning: ${text}`),
      info: assert.fail,
    },
  });
  return { clock, client, smtpd, messages, terminate, abortNow, verdict: outcomeOf(verdict) };
}

function greeted(t: TestContext) {
  const one = start(t);
  one.smtpd.send('220 hi\r\n');
  return one;
}

describe('converse', () => {
  it('reads neither side while one does not take what it was sent, and resumes when it does', async (t) => {
    const { client, smtpd, verdict } = start(t);
    client.stall();
    smtpd.send('220 hi\r\n');
    assert.deepEqual([client.isRead(), smtpd.isRead()], [false, false]);
    client.take();
    assert.deepEqual([client.isRead(), smtpd.isRead()], [true, true]);
    smtpd.stall();
    client.send('NOOP\r\n');
    assert.deepEqual([client.isRead(), smtpd.isRead()], [false, false]);
    smtpd.take();
    assert.deepEqual([client.isRead(), smtpd.isRead()], [false, true]);
    smtpd.send('250 ok\r\n');
    assert.deepEqual([client.isRead(), smtpd.isRead()], [true, true]);
    client.send('HELO client\r\n');
    await settle();
    assert.equal(verdict(), 'plaintext');
    assert.deepEqual([client.isRead(), smtpd.isRead()], [false, false]);
  });

  it('writes nothing more to a side that has not taken the last bytes', async (t) => {
    const { client, smtpd } = greeted(t);
    client.stall();
    client.send('NOOP\r\n');
    smtpd.send('250 one\r\n');
    smtpd.push('250 unasked\r\n250 again\r\n');
    assert.equal(client.overruns(), 0);
    client.take();
    assert.equal(client.received(), '220 hi\r\n250 one\r\n250 unasked\r\n250 again\r\n');
    smtpd.stall();
    client.send('NOOP\r\n');
    smtpd.push('250 early\r\n');
    client.push('NOOP\r\n');
    assert.equal(smtpd.overruns(), 0);
    smtpd.take();
    assert.deepEqual([smtpd.overruns(), smtpd.received()], [0, 'NOOP\r\nNOOP\r\nNOOP\r\n']);
  });

  it('does not touch either side after the verdict, whatever they still send', async (t) => {
    for (const [command, expected] of [
      ['HELO client\r\n', 'plaintext'],
      ['GET / HTTP/1.1\r\n', 'close'],
    ] as const) {
      const { clock, client, smtpd, verdict } = greeted(t);
      // smtpd closes its output; how it exits is not known before the client has sent its command.
      smtpd.finish();
      client.send(command);
      await settle();
      assert.equal(verdict(), expected);
      const received = client.received();
      // The relay reads from here on.
      client.source.read();
      smtpd.source.read();
      smtpd.fail();
      client.take();
      client.fail();
      client.finish();
      smtpd.exit({ status: 0 });
      await clock.pass(2 * IDLE);
      assert.deepEqual([client.isRead(), smtpd.isRead()], [true, true]);
      assert.deepEqual([client.received(), smtpd.hasEnded()], [received, false]);
      t.mock.restoreAll();
    }
  });

  it('gives the verdict tls with nothing left to write', async (t) => {
    const { client, smtpd, verdict } = greeted(t);
    client.send('STARTTLS\r\n');
    assert.equal(smtpd.received(), 'RSET\r\n');
    assert.equal(client.isRead(), false);
    client.stall();
    smtpd.send('250 ok\r\n');
    await settle();
    assert.match(client.received(), /220 2\.0\.0 Ready to start TLS\r\n$/);
    assert.equal(verdict(), undefined);
    client.take();
    await settle();
    assert.deepEqual([verdict(), client.isRead()], ['tls', false]);
  });

  it('sends a reply of many lines in one piece, and no more than 16 KiB and a line at once', async (t) => {
    const { client, smtpd } = greeted(t);
    client.stall();
    client.send('HELP\r\n');
    const line = `214-${'x'.repeat(94)}\r\n`;
    smtpd.send(line.repeat(500));
    const sent = client.received().length;
    assert.ok(sent >= 16_384 && sent < 16_384 + 200, `${sent} octets were sent at once`);
    client.take();
    assert.equal(client.received(), `220 hi\r\n${line.repeat(500)}`);
    const before = client.writes().length;
    smtpd.send('214-one\r\n214 two\r\n');
    assert.deepEqual(client.writes().slice(before), ['214-one\r\n214 two\r\n']);
  });

  it('delivers a reply that arrives while the client is stalled, even if smtpd exits meanwhile', async (t) => {
    const { client, smtpd, verdict, messages } = greeted(t);
    client.stall();
    client.send('NOOP\r\n');
    smtpd.send('250 ok\r\n');
    smtpd.push('421 bye\r\n');
    smtpd.finish(new Error('closed'));
    smtpd.exit({ status: 0 });
    await settle();
    assert.equal(verdict(), undefined);
    client.take();
    await settle();
    assert.equal(verdict(), 'close');
    assert.deepEqual([client.received(), messages], ['220 hi\r\n250 ok\r\n421 bye\r\n', []]);
  });

  it('closes the input of smtpd when the client has ended, and delivers further replies', async (t) => {
    const { client, smtpd, verdict } = greeted(t);
    client.send('NOOP\r\n');
    client.finish();
    assert.equal(smtpd.hasEnded(), false);
    smtpd.send('250 ok\r\n');
    assert.equal(smtpd.hasEnded(), true);
    smtpd.finish();
    smtpd.exit({ status: 0 });
    await settle();
    assert.equal(verdict(), 'close');
    assert.match(client.received(), /250 ok\r\n$/);
  });

  it('closes the input of smtpd when writing to the client fails', async (t) => {
    const { client, smtpd } = greeted(t);
    client.stall();
    client.send('NOOP\r\n');
    smtpd.send('250 ok\r\n');
    client.fail();
    await settle();
    assert.ok(smtpd.hasEnded());
  });

  it('continues when writing to smtpd fails, and ends with its output', async (t) => {
    const { client, smtpd, verdict, messages } = greeted(t);
    smtpd.stall();
    client.send('NOOP\r\n');
    smtpd.fail();
    assert.ok(smtpd.isRead(), 'smtpd is no longer read');
    smtpd.finish();
    smtpd.exit({ status: 3 });
    await settle();
    assert.equal(verdict(), 'close');
    assert.match(client.received(), /\r\n421 4\.3\.0 /);
    assert.deepEqual(messages, ['warning: smtpd exited mid-dialogue: exit status 3']);
  });
});

describe('the idle timeout of the dialogue', () => {
  it('is not renewed by single bytes of a slow client, only by a complete line', async (t) => {
    const { clock, client, verdict } = greeted(t);
    for (const byte of 'NO') {
      await clock.pass(100_000);
      client.send(byte);
    }
    await clock.pass(99_999);
    assert.equal(verdict(), undefined);
    await clock.pass(1);
    assert.equal(verdict(), 'close', 'a client that sends byte by byte holds the session');
    assert.match(client.received(), /\r\n421 4\.4\.2 [^\n]*\r\n$/);
  });

  it('is not renewed by single bytes of a slow smtpd, only by a complete line', async (t) => {
    const { clock, client, smtpd, verdict } = start(t);
    for (const byte of '22') {
      await clock.pass(100_000);
      smtpd.send(byte);
    }
    await clock.pass(100_000);
    assert.equal(verdict(), 'close', 'an smtpd that sends byte by byte holds the session');
    assert.match(client.received(), /^421 4\.4\.2 [^\n]*\r\n$/);
  });

  it('is renewed by each line of either side', async (t) => {
    const { clock, client, smtpd, verdict } = start(t);
    for (let turn = 0; turn < 3; turn++) {
      await clock.pass(IDLE - 1);
      smtpd.send(turn === 0 ? '220 hi\r\n' : '250 ok\r\n');
      await clock.pass(IDLE - 1);
      client.send('NOOP\r\n');
    }
    await clock.pass(IDLE - 1);
    assert.equal(verdict(), undefined);
    await clock.pass(1);
    assert.equal(verdict(), 'close');
  });

  it('ends the dialogue with a client that takes nothing', async (t) => {
    const { clock, client, smtpd, verdict } = start(t);
    client.stall();
    smtpd.send('220 hi\r\n');
    await clock.pass(IDLE);
    assert.equal(verdict(), 'close');
  });

  it('ends the dialogue with an smtpd that takes nothing', async (t) => {
    const { clock, client, smtpd, verdict } = greeted(t);
    smtpd.stall();
    client.send('NOOP\r\n');
    await clock.pass(IDLE);
    assert.equal(verdict(), 'close');
    assert.match(client.received(), /\r\n421 4\.4\.2 /);
  });
});

describe('a process that smtpd leaves behind, in the dialogue', () => {
  it('does not hold the client when it sends nothing for two seconds', async (t) => {
    const { clock, client, smtpd, verdict, messages } = greeted(t);
    smtpd.exit({ status: 3 });
    await clock.pass(1_999);
    client.send('NOOP\r\n');
    smtpd.send('250 from the other process\r\n');
    await clock.pass(1_999);
    assert.equal(verdict(), undefined);
    await clock.pass(1);
    assert.equal(verdict(), 'close');
    assert.match(client.received(), /250 from the other process\r\n421 4\.3\.0 /);
    assert.deepEqual(messages, ['warning: smtpd exited mid-dialogue: exit status 3']);
  });

  it('is not abandoned while bytes wait for the client', async (t) => {
    const { clock, client, smtpd, verdict } = greeted(t);
    client.stall();
    client.send('NOOP\r\n');
    smtpd.send('250 ok\r\n');
    smtpd.exit({ status: 0 });
    await clock.pass(10_000);
    client.take();
    await settle();
    assert.equal(verdict(), undefined);
    smtpd.send('250 late\r\n');
    assert.match(client.received(), /250 late\r\n$/);
    await clock.pass(4_000);
    assert.equal(verdict(), 'close');
  });

  it('is no longer watched once the verdict is given', async (t) => {
    const { clock, client, smtpd, verdict } = greeted(t);
    smtpd.exit({ status: 0 });
    await settle();
    assert.equal(clock.pending(), 2);
    client.send('HELO client\r\n');
    await settle();
    assert.equal(verdict(), 'plaintext');
    assert.equal(clock.pending(), 0, 'a timer of the dialogue is left');
  });
});

describe('the end of a session, in the dialogue', () => {
  it('is a 421 when it is aborted, though smtpd has sent nothing', async (t) => {
    const { client, terminate, abortNow, verdict } = greeted(t);
    terminate();
    await settle();
    assert.equal(verdict(), undefined);
    abortNow();
    await settle();
    assert.equal(verdict(), 'close');
    assert.match(client.received(), /\r\n421 4\.3\.2 [^\n]*\r\n$/);
  });

  it('is smtpd’s own 421 if it sends one', async (t) => {
    const { client, smtpd, terminate, verdict } = greeted(t);
    terminate();
    smtpd.send('421 bye\r\n');
    smtpd.finish();
    smtpd.exit({ status: 0 });
    await settle();
    assert.equal(verdict(), 'close');
    assert.match(client.received(), /^220 hi\r\n421 bye\r\n/);
  });

  it('is our 421 if smtpd exits without one', async (t) => {
    const { client, smtpd, terminate, verdict, messages } = greeted(t);
    terminate();
    await settle();
    smtpd.finish();
    smtpd.exit({ status: 143, signal: 'SIGTERM' });
    await settle();
    assert.equal(verdict(), 'close');
    assert.match(client.received(), /\r\n421 4\.3\.2 [^\n]*\r\n$/);
    assert.deepEqual(messages, []);
  });

  it('does not wait for a client that takes nothing', async (t) => {
    const { client, smtpd, abortNow, verdict } = start(t);
    client.stall();
    smtpd.send('220 hi\r\n');
    abortNow();
    await settle();
    assert.equal(verdict(), 'close');
  });
});
