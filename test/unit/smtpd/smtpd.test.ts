/** Programs with pipes on their standard input and output, and ending them. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { startProgram } from '../../../lib/smtpd/process.ts';
import { endAfterOutput, endSmtpd, type Smtpd, type SmtpdEnd } from '../../../lib/smtpd/smtpd.ts';
import { settle, stopClock } from '../../support/clock.ts';
import { createTestSmtpd, outcomeOf } from '../../support/test-stream.ts';
import { DEADLINE, within } from '../../support/within.ts';

function startShell(script: string): Smtpd {
  return startProgram(['sh', '-c', script], process.env);
}

function endOf(child: Smtpd): Promise<SmtpdEnd> {
  return within(DEADLINE, 'end of the program', child.ended);
}

/** Reads the output of a program up to its end. */
function outputOf(child: Smtpd): Promise<string> {
  let output = '';
  const ended = new Promise<string>((resolve) => {
    child.source.listen({
      bytes: (bytes) => {
        output += Buffer.from(bytes).toString('latin1');
      },
      ended: () => resolve(output),
    });
    child.source.read();
  });
  return within(DEADLINE, 'end of the output', ended);
}

describe('startProgram', () => {
  for (const [what, script, end] of [
    ['exits with 0', 'exit 0', { status: 0 }],
    ['exits with 99', 'exit 99', { status: 99 }],
    ['is killed by SIGKILL', 'kill -KILL $$', { status: 137, signal: 'SIGKILL' }],
    ['is killed by SIGTERM', 'kill -TERM $$', { status: 143, signal: 'SIGTERM' }],
  ] as const) {
    it(`reports the end of a program that ${what}`, async () => {
      const child = startShell(script);
      assert.deepEqual(await endOf(child), end);
    });
  }

  it('gives all that a program has written before it exits', async () => {
    const child = startShell('head -c 500000 /dev/zero; exit 1');
    assert.equal((await outputOf(child)).length, 500_000);
    assert.deepEqual(await endOf(child), { status: 1 });
  });

  it('passes everything to the program, then the end of input', async () => {
    const child = startShell('cat');
    child.sink.write(Buffer.from('one '));
    child.sink.write(Buffer.from('two'));
    child.sink.end();
    assert.equal(await outputOf(child), 'one two');
  });

  it('sends signals, but none to a program that has exited', async () => {
    const child = startShell('exec cat');
    child.kill('SIGINT');
    assert.deepEqual(await endOf(child), { status: 130, signal: 'SIGINT' });
    child.kill('SIGINT');
  });

  for (const [command, status, why] of [
    [
      ['/no/such/program'],
      127,
      'ENOENT (no such program: check its path, PATH, and the interpreter in its first line)',
    ],
    [['/tmp'], 126, 'EACCES (not an executable file, or not for this user: namei -l)'],
    [['sh', '-c', 'x'.repeat(3_000_000)], 126, 'E2BIG'],
  ] as const) {
    it(`gives ${status} for ${why}, an output that has ended, and discards what is written`, async () => {
      const child = startProgram(command, process.env);
      assert.deepEqual(await endOf(child), { status, failure: `cannot run ${command[0]}: ${why}` });
      assert.equal(await outputOf(child), '');
      assert.equal(child.sink.write(Buffer.from('lost')), true);
      await within(DEADLINE, 'end of the input', new Promise<void>((resolve) => child.sink.end(resolve)));
      child.kill('SIGTERM');
    });
  }
});

describe('endSmtpd', () => {
  it('reads what a program still writes, so that it can exit by itself', async () => {
    // More than a pipe holds: unread, the program would stay in its write until SIGTERM.
    const child = startShell('cat >/dev/null; head -c 1000000 /dev/zero && exit 7');
    assert.deepEqual(await within(DEADLINE, 'end of the program', endSmtpd(child)), { status: 7 });
  });

  it('closes the input of a program, and sends no signal if it exits then', async (t) => {
    const clock = stopClock(t);
    const child = createTestSmtpd();
    const outcome = outcomeOf(endSmtpd(child));
    await clock.pass(4_999);
    assert.deepEqual([child.hasEnded(), child.signals()], [true, []]);
    child.exit({ status: 2 });
    await settle();
    assert.deepEqual(outcome(), { status: 2 });
    assert.equal(clock.pending(), 0);
  });

  it('sends SIGTERM after five seconds and SIGKILL after ten, and waits for the end', async (t) => {
    const clock = stopClock(t);
    const child = createTestSmtpd();
    const outcome = outcomeOf(endSmtpd(child));
    await clock.pass(5_000);
    assert.deepEqual(child.signals(), ['SIGTERM']);
    await clock.pass(4_999);
    assert.deepEqual(child.signals(), ['SIGTERM']);
    await clock.pass(1);
    assert.deepEqual(child.signals(), ['SIGTERM', 'SIGKILL']);
    await clock.pass(60_000);
    assert.equal(outcome(), undefined);
    child.exit({ status: 137, signal: 'SIGKILL' });
    await settle();
    assert.deepEqual(outcome(), { status: 137, signal: 'SIGKILL' });
  });
});

describe('endAfterOutput', () => {
  it('waits half a second for the end, and no longer', async (t) => {
    const clock = stopClock(t);
    const [quick, slow] = [createTestSmtpd(), createTestSmtpd()];
    const [one, other] = [outcomeOf(endAfterOutput(quick)), outcomeOf(endAfterOutput(slow).then(String))];
    await clock.pass(499);
    assert.deepEqual([one(), other()], [undefined, undefined]);
    quick.exit({ status: 9 });
    await clock.pass(1);
    assert.deepEqual([one(), other()], [{ status: 9 }, 'undefined']);
  });
});
