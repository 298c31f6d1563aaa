import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { ROOT } from '../support/programs.ts';

// The output of "make test", for files of tests that pass, fail and crash.

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'reporter-')));
after(() => rmSync(folder, { recursive: true }));

const FILES = {
  'crash.test.mjs': `throw new Error('no such module');`,
  'fail.test.mjs': `
    import { equal } from 'node:assert/strict';
    import { describe, test } from 'node:test';
    describe('outer', () => {
      test('inner', (t) => { t.diagnostic('seed 7'); console.error('from the program'); equal(1, 2); });
      test('a known defect', { todo: true }, () => { throw new Error('known'); });
    });`,
  'pass.test.mjs': `
    import { test } from 'node:test';
    test('quiet', () => console.log('of no interest'));
    test('skipped', { skip: 'not installed: frobnicate' }, () => {});`,
};

test('make test prints a line per file and failure, and at the end failures in full with what their file printed', () => {
  for (const [name, text] of Object.entries(FILES)) writeFileSync(join(folder, name), text);
  const { NODE_TEST_CONTEXT: _, ...env } = process.env;
  const reporter = `--test-reporter=${join(ROOT, 'dist/test/reporter.mjs')}`;
  const { status, stdout } = spawnSync(process.execPath, ['--test', reporter, ...Object.keys(FILES)], {
    cwd: folder,
    env,
    encoding: 'utf8',
  });
  assert.equal(status, 1);

  const [files = '', ...rest] = stdout.split('\n\n');
  const [brief] = files.match(/^ {10}inner: .*\n/m) ?? [];
  assert.match(brief ?? '', /AssertionError.*: Expected values to be strictly equal: 1 !== 2 \n$/);
  assert.deepEqual(
    files
      .replace(brief ?? '', '')
      .split('\n')
      .map((line) => line.replace(/ +\d+\.\d s /, ''))
      .sort(),
    ['FAILED crash.test.mjs', 'FAILED fail.test.mjs', 'ok pass.test.mjs'],
  );
  const details = rest.join('\n\n');
  assert.match(details, /^\d\. outer > inner\n {3}fail\.test\.mjs\n {3}AssertionError/m);
  assert.match(details, /^ {3}from the program$/m);
  assert.match(details, /^ {3}# seed 7$/m);
  assert.match(details, /^ {3}.*Error: no such module/m);
  assert.doesNotMatch(details, /known|no interest/);
  assert.match(
    details,
    /\nskipped 1: not installed: frobnicate\n\d tests: \d passed, 2 failed, 1 skipped, in \d+ s\n$/,
  );
});
