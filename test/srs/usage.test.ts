/** The command line of smtpd-srs-io, and its file of keys. */

import assert from 'node:assert/strict';
import { chmodSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { ours } from '../support/programs.ts';
import { type Outcome, run } from '../support/real.ts';
import { writeKeys } from '../support/srs.ts';

const SMTPD = ['sh', '-c', 'echo 220 ready'];

function runSrs(t: TestContext, words: readonly string[], keys = 'secret\n', mode = 0o600): Promise<Outcome> {
  return run([ours('smtpd-srs-io'), '-k', writeKeys(t, keys, mode), '-d', 'ours.example', ...words]);
}

describe('a usage error exits with 100 and names what is wrong', () => {
  const errors: readonly (readonly [words: readonly string[], message: string])[] = [
    [[], 'missing smtpd command'],
    [['--pack', '--unpack', ...SMTPD], '--pack and --unpack contradict each other'],
    [['-d', '', ...SMTPD], 'missing --domains LIST'],
    [['-d', 'a.example,', ...SMTPD], '--domains takes domains separated by commas, not ""'],
    [['-d', '*a.example', ...SMTPD], '--domains takes domains separated by commas, not "*a.example"'],
    [['-d', 'b.example,*.a.example', ...SMTPD], '--domains takes "*." at the start only'],
    [['-k', '', ...SMTPD], 'missing --keys FILE'],
    [['--hash-length', '3', ...SMTPD], '--hash-length takes a whole number from 4 to 27, not 3'],
    [['--hash-length', '28', ...SMTPD], '--hash-length takes a whole number from 4 to 27, not 28'],
    [['--hash-min', '5', ...SMTPD], '--hash-min takes a whole number from 4 to 4, not 5'],
    [['--max-age', '1022', ...SMTPD], '--max-age takes a whole number from 1 to 1021, not 1022'],
    [['--separator', '_', ...SMTPD], '--separator takes =, + or -, not _'],
    [['--long', 'cut', ...SMTPD], '--long takes pass or refuse, not cut'],
  ];
  for (const [words, message] of errors) {
    it(message, async (t) => {
      const { status, stdout, stderr } = await runSrs(t, words);
      assert.equal(stderr, `smtpd-srs-io: fatal: usage error: ${message}\n`);
      assert.equal(stdout, '');
      assert.equal(status, 100);
    });
  }

  it('missing domains', async (t) => {
    const { status, stderr } = await run([ours('smtpd-srs-io'), '-k', writeKeys(t, 'secret\n'), ...SMTPD]);
    assert.equal(stderr, 'smtpd-srs-io: fatal: usage error: missing --domains LIST\n');
    assert.equal(status, 100);
  });

  it('an smtpd that would be an open relay', async (t) => {
    const { status, stderr } = await runSrs(t, ['exim', '-bs']);
    assert.match(stderr, /an open relay/);
    assert.equal(status, 100);
  });
});

describe('the file of keys', () => {
  it('with no key is refused', async (t) => {
    const { status, stderr } = await runSrs(t, SMTPD, '# none\n\n');
    assert.match(stderr, /^smtpd-srs-io: fatal: unable to use --keys \/\S+: no key in it\n$/);
    assert.equal(status, 100);
  });

  it('that does not exist, or is not a file, is named', async (t) => {
    const path = writeKeys(t, '');
    const missing = await runSrs(t, ['-k', `${path}.missing`, ...SMTPD]);
    assert.equal(
      missing.stderr,
      `smtpd-srs-io: fatal: unable to read --keys ${path}.missing: ENOENT (no such file, or a link to one that does not exist)\n`,
    );
    assert.equal(missing.status, 111);
    const folder = await runSrs(t, ['-k', dirname(path), ...SMTPD]);
    assert.match(folder.stderr, /: not a regular file\n$/);
    assert.equal(folder.status, 100);
  });

  it('is used silently with one key or two, and mode 600', async (t) => {
    for (const keys of ['one', 'one\ntwo\n']) {
      const { status, stdout, stderr } = await runSrs(t, SMTPD, keys);
      assert.equal(stderr, '');
      assert.equal(stdout, '220 ready\r\n');
      assert.equal(status, 0);
    }
  });

  it('has the number of its keys and lines logged at level 2', async (t) => {
    const one = await runSrs(t, ['-v', '2', ...SMTPD], 'one\n');
    assert.match(one.stderr, /^smtpd-srs-io: info: 1 SRS key in 1 line of \/\S+\n$/);
    const two = await runSrs(t, ['-v', '2', ...SMTPD], '# two\none\n\ntwo\n');
    assert.match(two.stderr, /^smtpd-srs-io: info: 2 SRS keys in 4 lines of \/\S+\n$/);
  });

  it('is used with a warning if it has more than two keys', async (t) => {
    const { status, stderr } = await runSrs(t, SMTPD, 'one\ntwo\nthree\n');
    assert.match(
      stderr,
      /^smtpd-srs-io: warning: 3 SRS keys in \/\S+: each makes it easier to guess a valid SRS address\n$/,
    );
    assert.equal(status, 0);
  });

  it('is used with a warning if others may read it', async (t) => {
    const path = writeKeys(t, 'one\n');
    chmodSync(path, 0o640);
    const { status, stderr } = await runSrs(t, ['-k', path, ...SMTPD]);
    assert.equal(
      stderr,
      `smtpd-srs-io: warning: others may read the SRS keys in ${path}: its mode is 640, not 600\n`,
    );
    assert.equal(status, 0);
  });
});

it('an smtpd that cannot be started is 127 or 126, and 421 for the client', async (t) => {
  const { status, stdout, stderr } = await runSrs(t, ['/nonexistent/smtpd']);
  assert.equal(
    stderr,
    'smtpd-srs-io: fatal: cannot run /nonexistent/smtpd: ENOENT (no such program: check its path, PATH, and the interpreter in its first line)\n',
  );
  assert.match(stdout, /^421 4\.3\.0 /);
  assert.equal(status, 127);
});
