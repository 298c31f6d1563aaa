/** SIGTERM, SIGINT and SIGHUP at every phase: smtpd gets them, and the shim ends. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { runShim, SERVER_NAMES, type ShimRun } from '../support/shim.ts';

const SIGNALS = [
  ['SIGTERM', 143],
  ['SIGINT', 130],
  ['SIGHUP', 129],
] as const;

/** The phases of a session, and how to come there. */
const PHASES: Readonly<Record<string, (run: ShimRun) => Promise<void>>> = {
  'before the greeting': async () => {},
  'in the dialogue': async ({ client }) => {
    await client.reply();
    await client.ask('EHLO client');
  },
  'in the handshake': async ({ client }) => {
    await client.reply();
    assert.match(await client.ask('STARTTLS'), /^220 /);
  },
  'in the relay in cleartext': async ({ client }) => {
    await client.reply();
    await client.ask('HELO client');
  },
  'in the relay in TLS': async ({ client }) => {
    await client.reply();
    await client.startTls();
    await client.ask('NOOP');
  },
};

/** Comes to a phase with an smtpd that does this when it is signalled. */
async function enter(t: TestContext, phase: string, ...smtpd: string[]): Promise<ShimRun> {
  const start = phase === 'before the greeting' ? ['--start=await-end'] : [];
  const run = await runShim(t, { smtpd: [...start, ...smtpd] });
  // The last of these to come is smtpd's word that it is there and has its handlers.
  await Promise.all([run.shim(), run.smtpd()]);
  await PHASES[phase]?.(run);
  return run;
}

describe('a signal', { concurrency: 6 }, () => {
  for (const phase of Object.keys(PHASES)) {
    describe(phase, { concurrency: 6 }, () => {
      for (const [signal, status] of SIGNALS) {
        it(`${signal} reaches smtpd, and the shim ends as smtpd does`, async (t) => {
          const run = await enter(t, phase);
          process.kill(await run.shim(), signal);
          const heard = await run.client.rest();
          if (phase.startsWith('in the relay')) assert.match(heard, /^421 4\.3\.2 [^\n]*\n$/);
          run.client.end();
          assert.equal(await run.status(), status);
          await run.allGone();
        });
      }

      // Before its greeting an smtpd has no handler yet that a test could know of.
      if (phase === 'before the greeting') return;

      it('an smtpd that takes SIGTERM as a wish to end in good order may', async (t) => {
        const run = await enter(
          t,
          phase,
          '--signal=SIGTERM:say 421 I take my leave; exit 42',
          '--end=await-nothing',
        );
        process.kill(await run.shim(), 'SIGTERM');
        const heard = await run.client.rest();
        if (phase !== 'in the handshake') assert.match(heard, /^421 I take my leave\r\n/);
        run.client.end();
        assert.equal(await run.status(), 42);
        await run.allGone();
      });

      it('an smtpd that ignores SIGTERM and its end of input gets SIGKILL', async (t) => {
        const run = await enter(t, phase, '--signal=SIGTERM:', '--end=await-nothing');
        process.kill(await run.shim(), 'SIGTERM');
        await run.client.rest();
        run.client.end();
        assert.equal(await run.status(), 137);
        await run.allGone();
      });
    });
  }

  describe('with --fresh', { concurrency: 4 }, () => {
    it('SIGTERM reaches the second smtpd, and the first is gone too', async (t) => {
      const run = await runShim(t, { options: ['--fresh'] });
      await run.client.reply();
      const first = await run.smtpd();
      await run.client.startTls();
      await run.client.ask('NOOP');
      await run.smtpd(first);
      process.kill(await run.shim(), 'SIGTERM');
      assert.match(await run.client.rest(), /^421 4\.3\.2 /);
      run.client.end();
      assert.equal(await run.status(), 143);
      await run.allGone();
    });

    it('SIGTERM while the second smtpd has yet to greet ends both', async (t) => {
      const run = await runShim(t, { options: ['--fresh'], smtpd: ['--start-in-tls=await-end'] });
      await run.client.reply();
      const first = await run.smtpd();
      await run.client.startTls();
      await run.smtpd(first);
      process.kill(await run.shim(), 'SIGTERM');
      assert.match(await run.client.rest(), /^421 4\.3\.[02] /);
      run.client.end();
      assert.equal(await run.status(), 143);
      await run.allGone();
    });
  });

  it('a second SIGTERM is passed on too, and changes nothing else', async (t) => {
    const run = await runShim(t, { smtpd: ['--signal=SIGTERM:say 250 heard'] });
    await run.client.reply();
    await run.client.ask('HELO client');
    const shim = await run.shim();
    process.kill(shim, 'SIGTERM');
    assert.equal(await run.client.reply(), '250 heard');
    process.kill(shim, 'SIGTERM');
    assert.equal(await run.client.reply(), '250 heard');
    run.client.say('QUIT');
    assert.equal(await run.client.rest(), '221 2.0.0 Bye\r\n');
    run.client.end();
    assert.equal(await run.status(), 0);
  });

  for (const server of SERVER_NAMES) {
    it(`does not cut off a mail that is on its way, where smtpd wants to finish it, under ${server}`, async (t) => {
      const run = await runShim(t, { server, smtpd: ['--signal=SIGTERM:'] });
      await run.client.reply();
      await run.client.startTls();
      run.client.say('MAIL FROM:<a@b>', 'DATA');
      for (const code of ['250', '354']) assert.ok((await run.client.reply()).startsWith(code));
      process.kill(await run.shim(), 'SIGTERM');
      assert.equal(await run.client.ask('hello\r\n.'), '250 2.0.0 Queued 7');
      run.client.say('QUIT');
      await run.client.rest();
      run.client.end();
      assert.equal(await run.status(), 0);
    });
  }
});
