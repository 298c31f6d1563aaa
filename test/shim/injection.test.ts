/**
 * CVE-2011-0411: bytes that arrive in cleartext after STARTTLS must never reach smtpd, however they are split and
 * whenever they arrive. The tests check smtpd's record of everything it has read.
 */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { unreadOctets } from '../support/kernel.ts';
import { until } from '../support/processes.ts';
import { runShim, SERVER_NAMES, type ShimRun, type ShimSetup } from '../support/shim.ts';

const INJECTED = 'XDO say 250 INJECTED\r\n';
const ATTACK = `STARTTLS\r\n${INJECTED}`;
const LINE_END = 'STARTTLS\r\n'.length;

async function open(t: TestContext, setup: ShimSetup = {}): Promise<ShimRun> {
  const run = await runShim(t, setup);
  await run.client.reply();
  return run;
}

/** Settles when everything the client has sent was read by some process. */
function isRead(run: ShimRun): Promise<void> {
  return until('everything is read', () => unreadOctets(run.port, run.clientPort) === 0);
}

/** Ends the session and asserts that only a TLS engine has received the injected bytes. */
async function assertUnseen(run: ShimRun): Promise<void> {
  const received = await run.client.rest().catch(() => '');
  run.client.destroy();
  await run.status();
  assert.doesNotMatch(received, /INJECTED/);
  assert.doesNotMatch(run.record(), /INJECTED|XDO|say 250/);
}

describe('input after STARTTLS', { concurrency: 4 }, () => {
  for (const server of SERVER_NAMES) {
    it(`in the same packet is refused and discarded, under ${server}; TLS may be started later`, async (t) => {
      const run = await open(t, { server });
      run.client.send(ATTACK);
      assert.match(await run.client.reply(), /^503 5\.5\.1 /);
      await run.client.startTls();
      assert.equal(await run.client.ask('NOOP'), '250 2.0.0 Ok');
      run.client.say('QUIT');
      assert.equal(await run.client.rest(), '221 2.0.0 Bye\r\n');
      await assertUnseen(run);
      assert.equal(run.record(), 'RSET\r\nNOOP\r\nQUIT\r\n');
    });

    it(`in a packet before the 220 goes to the TLS engine, under ${server}`, async (t) => {
      const run = await open(t, { server, smtpd: ['--on=RSET:await-signal; say 250 ok'] });
      run.client.say('STARTTLS');
      await run.hasRead('RSET\r\n');
      run.client.send(INJECTED);
      await until('it has arrived', () => unreadOctets(run.port, run.clientPort) === INJECTED.length);
      await run.release();
      assert.match(await run.client.reply(), /^220 /);
      await assertUnseen(run);
      assert.equal(run.record(), 'RSET\r\n');
    });

    it(`in a packet after the 220 goes to the TLS engine, under ${server}`, async (t) => {
      const run = await open(t, { server });
      assert.match(await run.client.ask('STARTTLS'), /^220 /);
      run.client.send(INJECTED);
      await assertUnseen(run);
      assert.equal(run.record(), 'RSET\r\n');
    });

    it(`after the 220 and before the ClientHello goes to the TLS engine with it, under ${server}`, async (t) => {
      const run = await open(t, { server });
      assert.match(await run.client.ask('STARTTLS'), /^220 /);
      run.client.send(INJECTED);
      await assert.rejects(run.client.shakeHands());
      await assertUnseen(run);
      assert.equal(run.record(), 'RSET\r\n');
    });
  }

  it('does not reach a second smtpd either', async (t) => {
    const run = await open(t, { options: ['--fresh'] });
    run.client.send(ATTACK);
    assert.match(await run.client.reply(), /^503 /);
    await run.client.startTls();
    assert.equal(await run.client.ask('NOOP'), '250 2.0.0 Ok');
    run.client.say('QUIT');
    await assertUnseen(run);
    assert.equal(run.record(), 'RSET\r\nNOOP\r\nQUIT\r\n');
  });

  it('is refused whatever the line endings are', async (t) => {
    const run = await open(t);
    for (const attack of [
      `STARTTLS\n${INJECTED}`,
      `starttls\r\n\r\n${INJECTED}`,
      `STARTTLS \r\n${INJECTED}`,
      `\tSTARTTLS\r\n${INJECTED}`,
      `STARTTLS\r\n${INJECTED.trimEnd()}\n`,
      `STARTTLS\r\n${INJECTED.repeat(500)}`,
      `STARTTLS\r\nSTARTTLS\r\n${INJECTED}`,
    ]) {
      run.client.send(attack);
      assert.match(await run.client.reply(), /^503 5\.5\.1 /, attack);
    }
    await run.client.startTls();
    assert.equal(await run.client.ask('NOOP'), '250 2.0.0 Ok');
    run.client.say('QUIT');
    await assertUnseen(run);
    assert.equal(run.record(), 'RSET\r\nNOOP\r\nQUIT\r\n');
  });

  it('is refused even if the STARTTLS line arrives in two packets, cut at any byte', async (t) => {
    const run = await open(t);
    for (let cut = 1; cut < LINE_END; cut++) {
      run.client.send(ATTACK.slice(0, cut));
      await isRead(run);
      run.client.send(ATTACK.slice(cut));
      assert.match(await run.client.reply(), /^503 5\.5\.1 /, `cut at ${cut}`);
    }
    run.client.say('QUIT');
    assert.equal(await run.client.rest(), '221 2.0.0 Bye\r\n');
    assert.equal(run.record(), 'QUIT\r\n');
  });

  for (const cut of [LINE_END, LINE_END + 1, LINE_END + 5, ATTACK.length - 2, ATTACK.length - 1]) {
    it(`never reaches smtpd when the packet is cut at byte ${cut}`, async (t) => {
      const run = await open(t);
      run.client.send(ATTACK.slice(0, cut));
      await isRead(run);
      run.client.send(ATTACK.slice(cut));
      assert.match(await run.client.reply(), cut === LINE_END ? /^220 / : /^503 /);
      if (cut !== LINE_END) run.client.say('QUIT');
      await assertUnseen(run);
      assert.equal(run.record(), cut === LINE_END ? 'RSET\r\n' : 'QUIT\r\n');
    });
  }

  it('never reaches smtpd when everything arrives byte by byte', async (t) => {
    const run = await open(t);
    for (const byte of ATTACK) {
      run.client.send(byte);
      // After the 220 the TLS engine reads, and it stops after a few bytes.
      if (!run.record().includes('RSET')) await isRead(run);
    }
    assert.match(await run.client.reply(), /^220 /);
    await assertUnseen(run);
    assert.equal(run.record(), 'RSET\r\n');
  });

  it('never reaches smtpd when one read ends exactly with the STARTTLS line', async (t) => {
    const run = await runShim(t, { smtpd: ['--start=await-signal; say 220 late'] });
    const filler = `NOOP ${'x'.repeat(8185)}\r\n`.repeat(8);
    // A read is 65536 octets.
    const first = `${filler.slice(0, -12)}\r\nSTARTTLS\r\n`;
    assert.equal(first.length, 65536);
    run.client.send(first + INJECTED);
    await until('everything has arrived', () => {
      return unreadOctets(run.port, run.clientPort) === first.length + INJECTED.length;
    });
    await run.release();
    assert.match(await run.client.reply(), /^220 late/);
    for (let count = 0; count < 8; count++) assert.equal(await run.client.reply(), '250 2.0.0 Ok');
    assert.match(await run.client.reply(), /^(220|503) /);
    await assertUnseen(run);
  });
});
