/** Whichever process is killed first, none is left, and no zombie. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { isGone, until } from '../support/processes.ts';
import { runShim, SERVER_NAMES, type ShimRun } from '../support/shim.ts';

/** A session in the relay, in cleartext or in TLS. */
async function work(t: TestContext, server: string, tls: boolean): Promise<ShimRun> {
  const run = await runShim(t, { server });
  await run.client.reply();
  await Promise.all([run.shim(), run.smtpd()]);
  if (tls) await run.client.startTls();
  else await run.client.ask('HELO client');
  await run.client.ask('NOOP');
  return run;
}

describe('no process is left', { concurrency: 4 }, () => {
  for (const server of SERVER_NAMES) {
    for (const tls of [false, true]) {
      const where = `under ${server}, in ${tls ? 'TLS' : 'cleartext'}`;

      it(`when the shim is killed ${where}`, async (t) => {
        const run = await work(t, server, tls);
        process.kill(await run.shim(), 'SIGKILL');
        await run.client.rest().catch(() => {});
        run.client.destroy();
        assert.equal(await run.status(), 137);
        await run.allGone();
      });

      it(`when smtpd is killed ${where}`, async (t) => {
        const run = await work(t, server, tls);
        process.kill(await run.smtpd(), 'SIGKILL');
        assert.match(await run.client.rest(), /^421 4\.3\.0 [^\n]*\n$/);
        run.client.end();
        assert.equal(await run.status(), 137);
        await run.allGone();
      });

      it(`when the client is gone ${where}`, async (t) => {
        const run = await work(t, server, tls);
        run.client.destroy();
        assert.ok([0, 143].includes(await run.status()));
        await run.allGone();
      });

      it(`when the client is gone with bytes unread ${where}`, async (t) => {
        const run = await work(t, server, tls);
        run.client.pause();
        run.client.sendLines('XDO flood 10000000; exit 0');
        await run.hasRead('XDO flood');
        // Closing with unread bytes resets the connection.
        run.client.destroy();
        await run.status();
        await run.allGone();
      });
    }

    it(`when the TLS server is killed under ${server}, in TLS`, async (t) => {
      const run = await work(t, server, true);
      process.kill(run.served.pid, 'SIGKILL');
      await run.client.rest().catch(() => {});
      await run.allGone();
    });

    it(`when the client is gone in the dialogue under ${server}`, async (t) => {
      const run = await runShim(t, { server });
      await run.client.reply();
      await Promise.all([run.shim(), run.smtpd()]);
      await run.client.ask('EHLO client');
      run.client.destroy();
      assert.equal(await run.status(), 0);
      await run.allGone();
    });
  }

  it('when the TLS server is killed in cleartext: the session continues to its end', async (t) => {
    const run = await work(t, 's6-ucspitlsd', false);
    process.kill(run.served.pid, 'SIGKILL');
    assert.equal(await run.client.ask('NOOP'), '250 2.0.0 Ok');
    run.client.sendLines('QUIT');
    assert.equal(await run.client.rest(), '221 2.0.0 Bye\r\n');
    run.client.end();
    await run.allGone();
  });

  it('when the client is gone before smtpd’s greeting', async (t) => {
    const run = await runShim(t, { smtpd: ['--start=await-signal; line 220 late'] });
    await Promise.all([run.shim(), run.smtpd()]);
    run.client.destroy();
    await run.release();
    assert.equal(await run.status(), 0);
    await run.allGone();
  });

  it('when the client is gone while a command is with smtpd', async (t) => {
    const run = await runShim(t, { smtpd: ['--on=NOOP:await-signal; line 250 ok'] });
    await run.client.reply();
    await Promise.all([run.shim(), run.smtpd()]);
    run.client.sendLines('NOOP');
    await run.hasRead('NOOP');
    run.client.destroy();
    await run.release();
    assert.equal(await run.status(), 0);
    await run.allGone();
  });

  it('when smtpd has left a process that holds its output: the client is not kept waiting', async (t) => {
    const run = await work(t, 's6-ucspitlsd', false);
    run.client.sendLines('XDO leave-child; line 250 left; exit 3');
    assert.equal(await run.client.rest(), '250 left\r\n');
    run.client.end();
    assert.equal(await run.status(), 3);
    const child = Number(/child (\d+)/.exec(run.record())?.[1]);
    assert.ok(!isGone(child), 'the process that smtpd left behind must not be killed');
    process.kill(child, 'SIGKILL');
    await run.allGone();
  });

  it('when that process continues to write: the client receives it', async (t) => {
    // It waits until its parent is not even a zombie: by then the shim has been notified of its exit.
    const wait = 'while kill -0 $$ 2>&-; do sleep 0.01; done';
    const script = `echo 220 hi; read l; echo 250 hi; (${wait}; echo 250 from the child) & exit 5`;
    const run = await runShim(t, { command: ['sh', '-c', script] });
    await run.client.reply();
    await Promise.all([run.shim(), run.smtpd()]);
    run.client.sendLines('HELO client');
    assert.equal(await run.client.rest(), '250 hi\n250 from the child\n');
    run.client.end();
    assert.equal(await run.status(), 5);
    await run.allGone();
  });
});

it('no zombie is left while the session continues', async (t) => {
  const run = await runShim(t, { options: ['--fresh'] });
  await run.client.reply();
  const first = await run.smtpd();
  await run.client.startTls();
  await run.client.ask('NOOP');
  await until('the first smtpd is gone, and no zombie', () => isGone(first));
});
