import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Failure } from '../../../lib/program/failure.ts';
import {
  formatHelp,
  numberOption,
  type OptionTable,
  optionTable,
  parseOptions,
  refuseBoth,
} from '../../../lib/program/options.ts';

const TABLE: OptionTable = {
  fresh: { type: 'boolean', short: 'f' },
  'idle-timeout': { type: 'string', short: 't' },
  S: { type: 'boolean', short: 'S' },
};

describe('parseOptions: options end where the program begins', () => {
  const cases: readonly (readonly [words: string, values: object, rest: readonly string[]])[] = [
    ['', {}, []],
    ['smtpd -f -x', {}, ['smtpd', '-f', '-x']],
    ['-f smtpd -f', { fresh: true }, ['smtpd', '-f']],
    ['-f -- smtpd', { fresh: true }, ['smtpd']],
    ['-- -smtpd --', {}, ['-smtpd', '--']],
    ['-t 5 smtpd', { 'idle-timeout': '5' }, ['smtpd']],
    ['-t5 smtpd', { 'idle-timeout': '5' }, ['smtpd']],
    ['-ft5 smtpd', { fresh: true, 'idle-timeout': '5' }, ['smtpd']],
    ['-ft 5 smtpd', { fresh: true, 'idle-timeout': '5' }, ['smtpd']],
    ['-fS smtpd', { fresh: true, S: true }, ['smtpd']],
    ['--idle-timeout 5 smtpd', { 'idle-timeout': '5' }, ['smtpd']],
    ['--idle-timeout=5 smtpd 5', { 'idle-timeout': '5' }, ['smtpd', '5']],
    ['--fresh -t 7 - -t', { fresh: true, 'idle-timeout': '7' }, ['-', '-t']],
  ];
  for (const [words, values, rest] of cases) {
    test(words === '' ? 'no words' : words, () => {
      const line = parseOptions(words === '' ? [] : words.split(' '), TABLE);
      assert.deepEqual({ ...line.values }, values);
      assert.deepEqual(line.rest, rest);
    });
  }
});

describe('parseOptions: what cannot be used is refused by name', () => {
  for (const [words, name] of [
    ['-x smtpd', '-x'],
    ['--none smtpd', '--none'],
    ['-t', '-t'],
    ['--idle-timeout', '--idle-timeout'],
    ['--fresh=yes smtpd', '--fresh'],
    ['-t -f smtpd', '-t'],
  ] as const) {
    test(words, () => {
      assert.throws(
        () => parseOptions(words.split(' '), TABLE),
        (error) => error instanceof Failure && error.status === 100 && error.message.includes(name),
      );
    });
  }
});

describe('numberOption', () => {
  const range = { min: 1, max: 10, default: 3 };
  test('gives the default where there is no option', () => {
    assert.equal(numberOption({}, 'idle-timeout', range), 3);
  });
  test('gives undefined where that is the default', () => {
    assert.equal(numberOption({}, 'idle-timeout', { ...range, default: undefined }), undefined);
  });
  test('takes both ends of the range', () => {
    assert.equal(numberOption({ 'idle-timeout': '1' }, 'idle-timeout', range), 1);
    assert.equal(numberOption({ 'idle-timeout': '10' }, 'idle-timeout', range), 10);
  });
  for (const text of ['0', '11', '-1', '1.5', '1e1', '', ' 2', 'x']) {
    test(`refuses "${text}", and names the option`, () => {
      assert.throws(
        () => numberOption({ 'idle-timeout': text }, 'idle-timeout', range),
        /--idle-timeout takes a whole number from 1 to 10/,
      );
      assert.throws(() => numberOption({ t: text }, 't', range), /: -t takes/);
    });
  }
});

describe('refuseBoth', () => {
  test('accepts either option', () => {
    refuseBoth({}, 'fresh', 'S');
    refuseBoth({ fresh: true }, 'fresh', 'S');
    refuseBoth({ S: true }, 'fresh', 'S');
  });
  test('refuses both, and names them', () => {
    assert.throws(
      () => refuseBoth({ fresh: true, S: true }, 'fresh', 'S'),
      /^Error: usage error: --fresh and -S contradict each other$/,
    );
  });
});

const ROWS = [
  { name: 'fresh', short: 'f', help: 'a flag' },
  { name: 'S', help: 'a letter alone' },
  { name: 'listen', value: 'HOST:PORT', multiple: true, help: 'a name alone' },
  { name: 'relay-idle-timeout', short: 'T', value: 'SECONDS', help: 'one whose name is too long' },
  { name: 'k', value: 'LEVEL', help: `0:${' word'.repeat(12)}\n1: other words` },
];

test('optionTable gives what parseOptions takes', () => {
  const table = optionTable(ROWS);
  const { values, rest } = parseOptions(
    ['-fS', '--listen', 'a:1', '-k2', '--listen=b:2', '-T', '5', 'smtpd'],
    table,
  );
  const listen = ['a:1', 'b:2'];
  assert.deepEqual({ ...values }, { fresh: true, S: true, listen, k: '2', 'relay-idle-timeout': '5' });
  assert.deepEqual(rest, ['smtpd']);
});

test('formatHelp gives each option a line, wraps what is long, and adds --version and --help', () => {
  const sections = [{ title: 'first', rows: ROWS.slice(0, 3) }, { rows: ROWS.slice(3) }];
  assert.equal(
    formatHelp('Usage: program', sections, 'The end.'),
    `Usage: program

  first
  -f, --fresh                 a flag
  -S                          a letter alone
      --listen HOST:PORT      a name alone
  -T, --relay-idle-timeout SECONDS
                              one whose name is too long
  -k LEVEL                    0: word word word word word word word word word
                              word word word
                              1: other words
      --version               print the version
      --help                  print this help

The end.
`,
  );
});
