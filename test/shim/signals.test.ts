/** SIGTERM, SIGINT and SIGHUP in every phase: smtpd gets them, and the shim exits. */

import assert from 'node:assert/strict';
import { describe, it, type TestContext } from 'node:test';
import { runShim, SERVER_NAMES, type ShimRun } from '../support/shim.ts';

const SIGNALS = [
  ['SIGTERM', 143],
  ['SIGINT', 130],
  ['SIGHUP', 129],
] as const;

/** The phases of a session, and how to reach them. */
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

/** Brings a session to a phase, with these options of smtpd-script. */
async function enter(t: TestContext, phase: string, ...smtpd: string[]): Promise<ShimRun> {
  const start = phase === 'before the greeting' ? ['--start=await-end'] : [];
  const run = await runShim(t, { smtpd: [...start, ...smtpd] });
  // smtpd is known only once it has installed its signal handlers.
  await Promise.all([run.shim(), run.smtpd()]);
  await PHASES[phase]?.(run);
  return run;
}

describe('a signal', { concurrency: 6 }, () => {
  for (const phase of Object.keys(PHASES)) {
    describe(phase, { concurrency: 6 }, () => {
      for (const [signal, status] of SIGNALS) {
        it(`${signal} reaches smtpd, and the shim exits with its status`, async (t) => {
          const run = await enter(t, phase);
          process.kill(await run.shim(), signal);
          const received = await run.client.rest();
          if (phase.startsWith('in the relay')) assert.match(received, /^421 4\.3\.2 [^\n]*\n$/);
          run.client.end();
          assert.equal(await run.status(), status);
          await run.allGone();
        });
      }

      // Before smtpd's greeting a test cannot know whether it has a signal handler.
      if (phase === 'before the greeting') return;

      it('an smtpd may shut down gracefully on SIGTERM', async (t) => {
        const run = await enter(
          t,
          phase,
          '--signal=SIGTERM:line 421 shutting down; exit 42',
          '--end=await-nothing',
        );
        process.kill(await run.shim(), 'SIGTERM');
        const received = await run.client.rest();
        if (phase !== 'in the handshake') assert.match(received, /^421 shutting down\r\n/);
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
    it('SIGTERM reaches the second smtpd, and the first has exited too', async (t) => {
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

    it('SIGTERM before the greeting of the second smtpd ends both', async (t) => {
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

  it('a second SIGTERM is passed on too, without other effects', async (t) => {
    const run = await runShim(t, { smtpd: ['--signal=SIGTERM:line 250 signalled'] });
    await run.client.reply();
    await run.client.ask('HELO client');
    const shim = await run.shim();
    process.kill(shim, 'SIGTERM');
    assert.equal(await run.client.reply(), '250 signalled');
    process.kill(shim, 'SIGTERM');
    assert.equal(await run.client.reply(), '250 signalled');
    run.client.sendLines('QUIT');
    assert.equal(await run.client.rest(), '221 2.0.0 Bye\r\n');
    run.client.end();
    assert.equal(await run.status(), 0);
  });

  for (const server of SERVER_NAMES) {
    it(`does not interrupt a mail transaction that smtpd wants to finish, under ${server}`, async (t) => {
      const run = await runShim(t, { server, smtpd: ['--signal=SIGTERM:'] });
      await run.client.reply();
      await run.client.startTls();
      run.client.sendLines('MAIL FROM:<a@b>', 'DATA');
      for (const code of ['250', '354']) assert.ok((await run.client.reply()).startsWith(code));
      process.kill(await run.shim(), 'SIGTERM');
      assert.equal(await run.client.ask('hello\r\n.'), '250 2.0.0 Queued 7');
      run.client.sendLines('QUIT');
      await run.client.rest();
      run.client.end();
      assert.equal(await run.status(), 0);
    });
  }
});
