/**
 * smtpd-maildir as a process whose system calls are logged and made to fail (see faults.c): 250 means that the
 * complete message is stored durably, and after any other reply no file of it is left.
 */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { until } from '../support/processes.ts';
import { missing } from '../support/programs.ts';
import { compileFaults, type FaultLibrary, failing, signalled, startFaulty } from './faults.ts';
import { filesIn, messagesIn, TO_DATA, textsIn } from './server.ts';

const skip = missing('gcc');

let library: FaultLibrary;
before(() => {
  if (skip === false) library = compileFaults();
});
after(() => library?.remove());

/** Few enough not to exceed the error limit when DATA fails and they are parsed as commands. */
const LINES = ['Subject: x', '', ...Array.from({ length: 10 }, (_, i) => `line ${i}`)];
const TEXT = LINES.map((line) => `${line}\n`).join('');
const SECOND = [...TO_DATA.slice(1), 'second', '.'];

/** Calls in a form to compare: NAME for the file name of a message, and consecutive writes as one. */
function sequence(calls: readonly string[]): string[] {
  return calls
    .map((call) => call.replace(/^(\w+ Maildir\/\w+)\/\d+\..*/, '$1/NAME').replace(/^(send \d+).*/, '$1'))
    .filter((call, i, all) => !(call.startsWith('write ') && all[i - 1] === call));
}

/** The calls without the replies. */
function withoutReplies(calls: readonly string[]): string[] {
  return calls.filter((call) => !call.startsWith('send '));
}

/** How many calls a server makes before the greeting, and how many until a message is stored. */
async function countCalls(t: Parameters<typeof startFaulty>[0], faults: string[]): Promise<[number, number]> {
  const server = startFaulty(t, { library, faults });
  await server.waitFor(/^220 /m);
  const start = withoutReplies(server.calls()).length;
  server.send(...TO_DATA, ...LINES, '.', 'QUIT');
  await server.ended;
  assert.deepEqual(textsIn(server.maildir), [TEXT]);
  return [start, withoutReplies(server.calls()).length];
}

describe('smtpd-maildir, for a message', { skip }, () => {
  it('writes and syncs the file, links it, syncs new/, and then replies', async (t) => {
    const server = startFaulty(t, { library });
    await server.waitFor(/^220 /m);
    const before = server.calls().length;
    server.send(...TO_DATA);
    await server.waitFor(/^354 .*\r\n/m);
    server.send(...LINES, '.');
    await server.waitFor(/^250 2\.0\.0 Message stored\r\n/m);
    assert.deepEqual(
      sequence(server.calls().slice(before)).filter((call) => !call.startsWith('open Maildir/new')),
      [
        'open Maildir/tmp/NAME',
        'write Maildir/tmp/NAME',
        'send 250',
        'write Maildir/tmp/NAME',
        'fsync Maildir/tmp/NAME',
        'link Maildir/new/NAME',
        'fsync Maildir/new',
        'unlink Maildir/tmp/NAME',
        'send 250',
      ],
    );
  });

  it('does the same with rename where the file system has no hard links', async (t) => {
    const server = startFaulty(t, { library, faults: [failing('link', 0, 'EPERM')] });
    await server.waitFor(/^220 /m);
    server.send(...TO_DATA, ...LINES, '.');
    await server.waitFor(/^250 2\.0\.0 Message stored\r\n/m);
    const calls = sequence(server.calls());
    assert.deepEqual(
      calls.slice(calls.indexOf('fsync Maildir/tmp/NAME')).filter((call) => !/^(open|unlink)/.test(call)),
      [
        'fsync Maildir/tmp/NAME',
        'link Maildir/new/NAME',
        'rename Maildir/new/NAME',
        'fsync Maildir/new',
        'send 250',
      ],
    );
    assert.deepEqual(filesIn(server.maildir, 'tmp'), []);
    assert.deepEqual(textsIn(server.maildir), [TEXT]);
  });

  it('does not replace another message of the same name', async (t) => {
    const server = startFaulty(t, { library, faults: ['link:1:exists:0'] });
    server.send(...TO_DATA, ...LINES, '.');
    await server.waitFor(/^451 4\.3\.0 /m);
    assert.deepEqual(messagesIn(server.maildir), ['another message\n']);
    server.send(...SECOND, 'QUIT');
    assert.equal(await server.ended, 0);
    assert.equal(server.stderr(), 'smtpd-maildir: warning: unable to store a message: EEXIST\n');
    assert.deepEqual(textsIn(server.maildir), ['another message\n', 'second\n']);
    assert.deepEqual(filesIn(server.maildir, 'tmp'), []);
  });
});

describe('smtpd-maildir, when it cannot create a file,', { skip }, () => {
  for (const [error, code, hint] of [
    ['EACCES', 'EACCES', 'this user cannot write there, or cannot search a directory above it: namei -l'],
    ['EDQUOT', 'Unknown system error -122', 'the disk quota of this user is exceeded'],
    ['EROFS', 'EROFS', 'mounted read-only, or protected by ProtectSystem= of systemd'],
  ] as const) {
    it(`has the remedy for ${error} in its message`, async (t) => {
      const server = startFaulty(t, { library, faults: [failing('open', 1, error)] });
      server.send(...TO_DATA);
      await server.waitFor(/^451 4\.3\.0 /m);
      server.send('QUIT');
      assert.equal(await server.ended, 0);
      const warning = `smtpd-maildir: warning: unable to store a message: ${code} (${hint})\n`;
      assert.equal(server.stderr(), warning);
    });
  }
});

describe('smtpd-maildir, when the file in tmp/ exists,', { skip }, () => {
  it('does not replace it', async (t) => {
    // The first open call is the only one with O_CREAT.
    const server = startFaulty(t, { library, faults: ['open:1:exists:0'] });
    server.send(...TO_DATA);
    await server.waitFor(/^451 4\.3\.0 /m);
    const [name = '', ...others] = filesIn(server.maildir, 'tmp');
    server.send(...TO_DATA.slice(1), ...LINES, '.', 'QUIT');
    assert.equal(await server.ended, 0);
    assert.deepEqual(others, []);
    assert.equal(readFileSync(join(server.maildir, 'tmp', name), 'latin1'), 'another message\n');
    assert.equal(server.stderr(), 'smtpd-maildir: warning: unable to store a message: EEXIST\n');
    assert.deepEqual(textsIn(server.maildir), [TEXT]);
  });
});

describe('smtpd-maildir, when a system call fails,', { skip }, () => {
  const settings = [
    { name: 'with hard links', faults: [] },
    { name: 'without hard links', faults: [failing('link', 0, 'EPERM')] },
    // libuv repeats a short write. When that fails, it returns the short count.
    { name: 'with short writes', faults: ['write:0:short:30'] },
  ];
  for (const { name, faults } of settings) {
    it(`stores a message or answers 451, ${name}, and stores the next one`, async (t) => {
      const [start, end] = await countCalls(t, faults);
      let refusals = 0;
      for (let number = start + 1; number <= end; number++) {
        const error = number % 2 === 0 ? 'ENOSPC' : 'EIO';
        const why = error === 'EIO' ? error : 'ENOSPC (no space or no inodes left: df, df -i)';
        const server = startFaulty(t, { library, faults: [...faults, failing('any', number, error)] });
        server.send(...TO_DATA, ...LINES, '.', ...SECOND, 'QUIT');
        assert.equal(await server.ended, 0);
        const calls = withoutReplies(server.calls());
        const failed = calls[number - 1] ?? '';
        const where = `${error} in ${failed}`;
        const refused = /^451 4\.3\.0 /m.test(server.unread());
        if (refused) refusals += 1;
        const stored = server.unread().match(/^250 2\.0\.0 Message stored\r$/gm)?.length;
        assert.equal(stored, refused ? 1 : 2, where);
        assert.deepEqual(textsIn(server.maildir), refused ? ['second\n'] : [TEXT, 'second\n'], where);
        const warning = `smtpd-maildir: warning: unable to store a message: ${why}\n`;
        assert.equal(server.stderr(), refused ? warning : '', where);
        // A file that cannot be removed remains in tmp/; after a rename there is none.
        const name = /^unlink Maildir\/tmp\/(.*)/.exec(failed)?.[1];
        const isRenamed = calls.some((call) => call.startsWith('rename '));
        const names = name === undefined || isRenamed ? [] : [name];
        assert.deepEqual(filesIn(server.maildir, 'tmp'), names, where);
      }
      // open, two writes, fsync, open and fsync of new/. When link fails, there is rename.
      assert.ok(refusals >= 6, `${refusals} refusals`);
    });
  }
});

describe('smtpd-maildir, on a signal before any system call,', { skip }, () => {
  it('has stored the complete message or nothing (SIGKILL)', async (t) => {
    const [start, end] = await countCalls(t, []);
    for (let number = start + 1; number <= end; number++) {
      const server = startFaulty(t, { library, faults: [signalled(number, 'SIGKILL')] });
      server.send(...TO_DATA, ...LINES, '.', 'QUIT');
      assert.equal(await server.ended, null);
      const texts = textsIn(server.maildir);
      if (texts.length > 0) assert.deepEqual(texts, [TEXT]);
    }
  });

  it('has stored the message and replied 250, or neither, and leaves nothing in tmp/ (SIGTERM)', async (t) => {
    const [start, end] = await countCalls(t, []);
    const outcomes = new Set<boolean>();
    // The text arrives in two pieces here, which is one more write.
    for (let number = start + 1; number <= end + 1; number++) {
      const server = startFaulty(t, { library, faults: [signalled(number, 'SIGTERM')] });
      const writes = (): number => server.calls().filter((call) => call.startsWith('write')).length;
      let exited = false;
      void server.ended.then(() => {
        exited = true;
      });
      server.send(...TO_DATA);
      await server.waitFor(/^354 .*\r\n/m);
      server.send(LINES[0] ?? '');
      await until('the first line is written', () => writes() > 1 || exited);
      server.send(...LINES.slice(1), '.');
      assert.equal(await server.ended, 143);
      const [, stored = ''] =
        /^((?:250 2\.0\.0 Message stored\r\n)?)421 4\.3\.2 .*\r\n$/.exec(server.unread()) ?? [];
      outcomes.add(stored !== '');
      assert.deepEqual(textsIn(server.maildir), stored === '' ? [] : [TEXT]);
      assert.deepEqual(filesIn(server.maildir, 'tmp'), []);
    }
    assert.equal(outcomes.size, 2, 'both outcomes occur');
  });
});

describe('smtpd-maildir, when the Maildir does not exist,', { skip }, () => {
  const STEPS = ['.', 'Maildir', 'Maildir', 'Maildir'].flatMap((parent, i) => [
    `mkdir ${['Maildir', 'Maildir/tmp', 'Maildir/new', 'Maildir/cur'][i]}`,
    `fsync ${parent}`,
  ]);

  it('syncs the parent of each directory that it creates, before the greeting', async (t) => {
    const server = startFaulty(t, { library, exists: false });
    await server.waitFor(/^220 /m);
    const calls = sequence(server.calls()).filter((call) => !call.startsWith('open'));
    // The first mkdir fails, because the Maildir does not exist.
    assert.deepEqual(calls, ['mkdir Maildir/tmp', ...STEPS, 'send 220']);
  });

  it('accepts a directory that another process has just created', async (t) => {
    for (let number = 2; number <= 5; number++) {
      const server = startFaulty(t, { library, exists: false, faults: [`mkdir:${number}:exists:0`] });
      server.send(...TO_DATA, ...LINES, '.', 'QUIT');
      assert.equal(await server.ended, 0);
      assert.deepEqual(textsIn(server.maildir), [TEXT]);
    }
  });

  it('exits with 111 and the reason when a call fails', async (t) => {
    const first = startFaulty(t, { library, exists: false });
    await first.waitFor(/^220 /m);
    const end = first.calls().findIndex((call) => call.startsWith('send'));
    for (let number = 1; number <= end; number++) {
      const server = startFaulty(t, { library, exists: false, faults: [failing('any', number, 'EIO')] });
      assert.equal(await server.ended, 111);
      const message = `smtpd-maildir: fatal: unable to create the Maildir ${server.maildir}: EIO\n`;
      assert.equal(server.stderr(), message);
      assert.equal(server.unread(), '');
    }
  });
});
