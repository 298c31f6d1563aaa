/** smtpd-maildir as a process: its limits, and how it ends. */

import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { statusOf } from '../support/processes.ts';
import { filesIn, newMaildir, startServer, TO_DATA, textsIn } from './server.ts';

/** The most memory that a process has had, in KiB. */
function peakMemory(pid: number): number {
  return Number.parseInt(statusOf(pid, 'VmHWM'), 10);
}

/**
 * How much more memory than at the greeting the server may have, in KiB. It keeps no more than one read; the
 * rest is what has not been collected yet.
 */
const GROWTH = 32 * 1024;

describe('smtpd-maildir is bounded', () => {
  it('in memory when a message is large', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: [maildir] });
    await server.hears(/^220 /m);
    const before = peakMemory(server.pid);
    const line = 'x'.repeat(78);
    server.say(...TO_DATA);
    server.say(`${line}\r\n`.repeat(250_000).concat('.'));
    await server.hears(/^250 2\.0\.0 /m);
    const after = peakMemory(server.pid);
    assert.ok(after - before < GROWTH, `${before} KiB before, ${after} KiB after`);
    server.say('QUIT');
    assert.equal(await server.ended, 0);
    assert.equal(textsIn(maildir)[0], `${line}\n`.repeat(250_000));
  });

  it('in memory and in time when the client does not read the replies', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: ['-t', '1', maildir] });
    await server.hears(/^220 /m);
    const before = peakMemory(server.pid);
    server.process.stdout?.pause();
    server.say('HELP\r\n'.repeat(1_000_000));
    let after = before;
    const watch = setInterval(() => {
      try {
        after = peakMemory(server.pid);
      } catch {
        // It has ended between two looks and has no memory any more.
      }
    }, 100);
    server.process.on('exit', () => {
      clearInterval(watch);
      server.process.stdout?.resume();
    });
    assert.equal(await server.ended, 1);
    assert.ok(after - before < GROWTH, `${before} KiB before, ${after} KiB after`);
  });

  it('in memory when a line does not end', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: [maildir] });
    await server.hears(/^220 /m);
    const before = peakMemory(server.pid);
    server.say('x'.repeat(100_000_000), 'NOOP');
    await server.hears(/^500 5\.5\.2 .*\r\n250 2\.0\.0 /m);
    const after = peakMemory(server.pid);
    assert.ok(after - before < GROWTH, `${before} KiB before, ${after} KiB after`);
  });

  it('in time when the client says nothing', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: ['-t', '1', maildir] });
    server.say(...TO_DATA, 'half');
    await server.hears(/^421 4\.4\.2 .*\r\n/m);
    server.process.stdin?.end();
    assert.equal(await server.ended, 1);
    assert.deepEqual([filesIn(maildir, 'tmp'), filesIn(maildir, 'new')], [[], []]);
  });

  it('in time when a command trickles in', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: ['-t', '1', maildir] });
    await server.hears(/^220 /m);
    const trickle = setInterval(() => server.process.stdin?.write('x'), 100);
    await server.hears(/^421 4\.4\.2 /m);
    clearInterval(trickle);
    server.process.stdin?.end();
    assert.equal(await server.ended, 1);
  });
});

/** Longer than the idle timeout in the tests below, in milliseconds. */
const LONGER = 4500;

/** Acts every now and then, for longer than the idle timeout. */
async function keepOn(act: () => unknown): Promise<void> {
  for (const end = Date.now() + LONGER; Date.now() < end; ) {
    await act();
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

describe('smtpd-maildir limits the size of a message', () => {
  const limits: [string[], NodeJS.ProcessEnv, string][] = [
    [[], {}, '67108864'],
    [['-s', '0'], {}, '0'],
    [['--size', '1000'], {}, '1000'],
    [['-s', '1000'], { DATABYTES: '' }, '0'],
    [['-s', '1000'], { DATABYTES: '2000' }, '2000'],
    [[], { DATABYTES: '9'.repeat(30) }, '9007199254740991'],
  ];
  for (const [args, environment, size] of limits) {
    it(`to ${size} with ${JSON.stringify([...args, environment])}`, async (t) => {
      const server = startServer(t, { args: [...args, newMaildir(t)], environment });
      await server.ask('EHLO me', new RegExp(`^250-SIZE ${size}\r\n`, 'm'));
    });
  }
});

describe('smtpd-maildir goes on for longer than the idle timeout', { concurrency: true }, () => {
  it('with a client that gives commands', async (t) => {
    const server = startServer(t, { args: ['-t', '3', newMaildir(t)] });
    await keepOn(() => server.ask('NOOP', /^250 /m));
    await server.ask('QUIT', /^221 /m);
    assert.equal(await server.ended, 0);
  });

  it('with a client that sends a message', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: ['-t', '3', maildir] });
    server.say(...TO_DATA);
    await server.hears(/^354 /m);
    await keepOn(() => server.say('text'));
    await server.ask('.', /^250 /m);
    assert.match(textsIn(maildir)[0] ?? '', /^(text\n)+$/);
  });

  it('with a client that sends a message that will be refused', async (t) => {
    const server = startServer(t, { args: ['-t', '3', '-s', '1', newMaildir(t)] });
    server.say(...TO_DATA);
    await server.hears(/^354 /m);
    await keepOn(() => server.say('text'));
    await server.ask('.', /^552 /m);
  });
});

describe('smtpd-maildir keeps no descriptor open', () => {
  it('of a message that was stored, refused, or given up', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: ['-s', '100', maildir] });
    await server.ask('EHLO me', /^250 HELP/m);
    const descriptors = readdirSync(`/proc/${server.pid}/fd`).length;
    server.say(...TO_DATA.slice(1), 'one', '.');
    await server.hears(/^250 2\.0\.0 Message stored/m);
    server.say(...TO_DATA.slice(1), 'x'.repeat(200), '.');
    await server.hears(/^552 /m);
    rmSync(join(maildir, 'new'), { recursive: true });
    server.say(...TO_DATA.slice(1), 'two', '.');
    await server.hears(/^451 /m);
    assert.equal(readdirSync(`/proc/${server.pid}/fd`).length, descriptors);
  });
});

describe('smtpd-maildir ends', () => {
  it('with 0 when the client hangs up between messages', async (t) => {
    const server = startServer(t, { args: [newMaildir(t)] });
    await server.ask('EHLO me', /^250 HELP/m);
    server.process.stdin?.end();
    assert.equal(await server.ended, 0);
    assert.equal(server.stderr(), '');
  });

  it('with 0 after QUIT, though the client does not hang up', async (t) => {
    const server = startServer(t, { args: [newMaildir(t)] });
    await server.ask('QUIT', /^221 /m);
    assert.equal(await server.ended, 0);
  });

  it('with 100 when it is used wrongly', async (t) => {
    const maildir = newMaildir(t);
    const wrong: [string[], NodeJS.ProcessEnv, RegExp][] = [
      [[], {}, /: no Maildir named\n$/],
      [[''], {}, /: no Maildir named\n$/],
      [[maildir, 'more'], {}, /: more\n$/],
      [['-t', '0', maildir], {}, /: --timeout takes a whole number /],
      [['--size', 'big', maildir], {}, /: --size takes a whole number /],
      [['-x', maildir], {}, /'-x'/],
      [[maildir], { DATABYTES: '1k' }, /: DATABYTES is no number: 1k\n$/],
    ];
    for (const [args, environment, message] of wrong) {
      const server = startServer(t, { args, environment });
      assert.equal(await server.ended, 100);
      assert.match(server.stderr(), /^smtpd-maildir: fatal: wrong usage: /);
      assert.match(server.stderr(), message);
    }
  });

  it('with 111 when there can be no Maildir', async (t) => {
    const maildir = newMaildir(t);
    writeFileSync(maildir, '');
    const server = startServer(t, { args: [maildir] });
    assert.equal(await server.ended, 111);
    assert.match(
      server.stderr(),
      /^smtpd-maildir: fatal: unable to make the Maildir .*: (ENOTDIR|EEXIST)\n$/,
    );
    assert.equal(server.unread(), '');
  });

  it('with 111 when a file stands where a part of the Maildir has to be', async (t) => {
    const maildir = newMaildir(t);
    mkdirSync(maildir);
    writeFileSync(join(maildir, 'new'), '');
    const server = startServer(t, { args: [maildir] });
    assert.equal(await server.ended, 111);
    assert.match(server.stderr(), /^smtpd-maildir: fatal: unable to make the Maildir .*: EEXIST\n$/);
  });

  it('with 111 where a directory takes no other', async (t) => {
    const server = startServer(t, { args: ['/proc/missing/Maildir'] });
    assert.equal(await server.ended, 111);
    assert.match(server.stderr(), /^smtpd-maildir: fatal: unable to make the Maildir .*: (ENOENT|EACCES)\n$/);
  });

  it('with 111 when there is no client', async (t) => {
    for (const script of ['"$@" <&-', '"$@" >&-', '"$@" </dev/null', '"$@" >/dev/null']) {
      const server = startServer(t, { args: [newMaildir(t)], script });
      assert.equal(await server.ended, 111, script);
      assert.match(server.stderr(), /^smtpd-maildir: fatal: unable to use descriptors 0 and 1, /);
    }
  });
});
