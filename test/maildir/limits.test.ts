/** smtpd-maildir as a process: its limits and its exit statuses. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { statusOf, until } from '../support/processes.ts';
import { filesIn, newMaildir, startServer, TO_DATA, textsIn } from './server.ts';

/** The peak resident memory of a process, in KiB. */
function peakMemory(pid: number): number {
  return Number.parseInt(statusOf(pid, 'VmHWM'), 10);
}

/**
 * How much the memory of the server may grow after the greeting, in KiB. It holds no more than one read; the
 * rest is garbage not yet collected.
 */
const GROWTH = 32 * 1024;

describe('smtpd-maildir has bounds', () => {
  it('on memory, for a large message', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: [maildir] });
    await server.waitFor(/^220 /m);
    const before = peakMemory(server.pid);
    const line = 'x'.repeat(78);
    server.send(...TO_DATA);
    server.send(`${line}\r\n`.repeat(250_000).concat('.'));
    await server.waitFor(/^250 2\.0\.0 /m);
    const after = peakMemory(server.pid);
    assert.ok(after - before < GROWTH, `${before} KiB before, ${after} KiB after`);
    server.send('QUIT');
    assert.equal(await server.ended, 0);
    assert.equal(textsIn(maildir)[0], `${line}\n`.repeat(250_000));
  });

  it('on memory and time, when the client does not read its replies', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: ['-t', '1', maildir] });
    await server.waitFor(/^220 /m);
    const before = peakMemory(server.pid);
    server.process.stdout?.pause();
    server.send('HELP\r\n'.repeat(1_000_000));
    let after = before;
    const watch = setInterval(() => {
      try {
        after = peakMemory(server.pid);
      } catch {
        // It has exited since the last call.
      }
    }, 100);
    server.process.on('exit', () => {
      clearInterval(watch);
      server.process.stdout?.resume();
    });
    assert.equal(await server.ended, 1);
    assert.ok(after - before < GROWTH, `${before} KiB before, ${after} KiB after`);
  });

  it('on memory, for a line without end', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: [maildir] });
    await server.waitFor(/^220 /m);
    const before = peakMemory(server.pid);
    server.send('x'.repeat(100_000_000), 'NOOP');
    await server.waitFor(/^500 5\.5\.2 .*\r\n250 2\.0\.0 /m);
    const after = peakMemory(server.pid);
    assert.ok(after - before < GROWTH, `${before} KiB before, ${after} KiB after`);
  });

  it('on time, when the client sends nothing', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: ['-t', '1', maildir] });
    server.send(...TO_DATA, 'half');
    await server.waitFor(/^421 4\.4\.2 .*\r\n/m);
    server.process.stdin?.end();
    assert.equal(await server.ended, 1);
    assert.deepEqual([filesIn(maildir, 'tmp'), filesIn(maildir, 'new')], [[], []]);
  });

  it('on time, when a command arrives octet by octet', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: ['-t', '1', maildir] });
    await server.waitFor(/^220 /m);
    const trickle = setInterval(() => server.process.stdin?.write('x'), 100);
    await server.waitFor(/^421 4\.4\.2 /m);
    clearInterval(trickle);
    server.process.stdin?.end();
    assert.equal(await server.ended, 1);
  });
});

/** Longer than the idle timeout of the tests below, in milliseconds. */
const LONGER = 4500;

/** Repeats an action for longer than the idle timeout. */
async function repeat(act: () => unknown): Promise<void> {
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
      await server.request('EHLO me', new RegExp(`^250-SIZE ${size}\r\n`, 'm'));
    });
  }
});

describe('smtpd-maildir restarts the idle timeout', { concurrency: true }, () => {
  it('at each command', async (t) => {
    const server = startServer(t, { args: ['-t', '3', newMaildir(t)] });
    await repeat(() => server.request('NOOP', /^250 /m));
    await server.request('QUIT', /^221 /m);
    assert.equal(await server.ended, 0);
  });

  it('at each part of a message', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: ['-t', '3', maildir] });
    server.send(...TO_DATA);
    await server.waitFor(/^354 /m);
    await repeat(() => server.send('text'));
    await server.request('.', /^250 /m);
    assert.match(textsIn(maildir)[0] ?? '', /^(text\n)+$/);
  });

  it('at each part of a message that will be refused', async (t) => {
    const server = startServer(t, { args: ['-t', '3', '-s', '1', newMaildir(t)] });
    server.send(...TO_DATA);
    await server.waitFor(/^354 /m);
    await repeat(() => server.send('text'));
    await server.request('.', /^552 /m);
  });
});

describe('smtpd-maildir closes the descriptors', () => {
  it('of a message that is stored, refused, or fails', async (t) => {
    const maildir = newMaildir(t);
    const server = startServer(t, { args: ['-s', '100', maildir] });
    await server.request('EHLO me', /^250 HELP/m);
    const descriptors = readdirSync(`/proc/${server.pid}/fd`).length;
    server.send(...TO_DATA.slice(1), 'one', '.');
    await server.waitFor(/^250 2\.0\.0 Message stored/m);
    server.send(...TO_DATA.slice(1), 'x'.repeat(200), '.');
    await server.waitFor(/^552 /m);
    rmSync(join(maildir, 'new'), { recursive: true });
    server.send(...TO_DATA.slice(1), 'two', '.');
    await server.waitFor(/^451 /m);
    assert.equal(readdirSync(`/proc/${server.pid}/fd`).length, descriptors);
  });
});

describe('smtpd-maildir, when it is stopped while the client does not read,', () => {
  it('exits', async (t) => {
    const server = startServer(t, { args: [newMaildir(t)] });
    await server.waitFor(/^220 /m);
    const { stdout } = server.process;
    assert.ok(stdout !== null);
    stdout.pause();
    // The replies to one read of this exceed all buffers, so the server is stalled when it gets the signal.
    server.send('HELP\r\n'.repeat(100_000));
    await until('the client has a full buffer', () => stdout.readableLength >= stdout.readableHighWaterMark);
    server.process.kill('SIGTERM');
    // The output is not read to its end before, so `ended` can only reject here.
    await Promise.race([once(server.process, 'exit'), server.ended]);
    stdout.resume();
    assert.equal(await server.ended, 143);
  });
});

describe('smtpd-maildir exits', () => {
  it('with 0 when the client half-closes between messages', async (t) => {
    const server = startServer(t, { args: [newMaildir(t)] });
    await server.request('EHLO me', /^250 HELP/m);
    server.process.stdin?.end();
    assert.equal(await server.ended, 0);
    assert.equal(server.stderr(), '');
  });

  it('with 0 after QUIT, although the client does not close the connection', async (t) => {
    const server = startServer(t, { args: [newMaildir(t)] });
    await server.request('QUIT', /^221 /m);
    assert.equal(await server.ended, 0);
  });

  it('with 1 after too many errors, when it has read what the client still sends', async (t) => {
    const server = startServer(t, { args: [newMaildir(t)] });
    const { stdin } = server.process;
    assert.ok(stdin !== null);
    // More than the buffers of the connection hold.
    stdin.end('x\r\n'.repeat(400_000));
    // Rejects on EPIPE and ECONNRESET.
    await once(stdin, 'finish');
    await server.waitFor(/^220 .*\r\n(?:500 .*\r\n){20}421 4\.7\.0 .*\r\n$/);
    assert.equal(await server.ended, 1);
  });

  it('with 100 after a usage error', async (t) => {
    const maildir = newMaildir(t);
    const cases: [string[], NodeJS.ProcessEnv, RegExp][] = [
      [[], {}, /: missing Maildir\n$/],
      [[''], {}, /: missing Maildir\n$/],
      [[maildir, 'more'], {}, /: unexpected argument: more\n$/],
      [['-t', '0', maildir], {}, /: --idle-timeout takes a whole number /],
      [['--size', 'big', maildir], {}, /: --size takes a whole number /],
      [['-x', maildir], {}, /'-x'/],
      [[maildir], { DATABYTES: '1k' }, /: DATABYTES is not a number: 1k\n$/],
    ];
    for (const [args, environment, message] of cases) {
      const server = startServer(t, { args, environment });
      assert.equal(await server.ended, 100);
      assert.match(server.stderr(), /^smtpd-maildir: fatal: usage error: /);
      assert.match(server.stderr(), message);
    }
  });

  it('with 111 when the Maildir cannot be created', async (t) => {
    const maildir = newMaildir(t);
    writeFileSync(maildir, '');
    const server = startServer(t, { args: [maildir] });
    assert.equal(await server.ended, 111);
    assert.match(
      server.stderr(),
      /^smtpd-maildir: fatal: unable to create the Maildir .*: (ENOTDIR|EEXIST)\n$/,
    );
    assert.equal(server.unread(), '');
  });

  it('with 111 when a part of the Maildir is a file', async (t) => {
    const maildir = newMaildir(t);
    mkdirSync(maildir);
    writeFileSync(join(maildir, 'new'), '');
    const server = startServer(t, { args: [maildir] });
    assert.equal(await server.ended, 111);
    assert.match(server.stderr(), /^smtpd-maildir: fatal: unable to create the Maildir .*: EEXIST\n$/);
  });

  it('with 111 in a directory where it cannot create one', async (t) => {
    const server = startServer(t, { args: ['/proc/missing/Maildir'] });
    assert.equal(await server.ended, 111);
    assert.match(
      server.stderr(),
      /^smtpd-maildir: fatal: unable to create the Maildir .*: (?:ENOENT|EACCES \([^\n]+\))\n$/,
    );
  });

  it('with 111 when descriptors 0 and 1 are not sockets or pipes', async (t) => {
    for (const script of ['"$@" <&-', '"$@" >&-', '"$@" </dev/null', '"$@" >/dev/null']) {
      const server = startServer(t, { args: [newMaildir(t)], script });
      assert.equal(await server.ended, 111, script);
      assert.match(server.stderr(), /^smtpd-maildir: fatal: unable to use descriptors 0 and 1, /);
    }
  });
});
