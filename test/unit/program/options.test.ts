import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Failure } from '../../../lib/program/failure.ts';
import { numberOption, type OptionTable, parseOptions } from '../../../lib/program/options.ts';

const TABLE: OptionTable = {
  fresh: { type: 'boolean', short: 'f' },
  timeout: { type: 'string', short: 't' },
  S: { type: 'boolean', short: 'S' },
};

describe('parseOptions: options end where the program begins', () => {
  const cases: readonly (readonly [words: string, values: object, rest: readonly string[]])[] = [
    ['', {}, []],
    ['smtpd -f -x', {}, ['smtpd', '-f', '-x']],
    ['-f smtpd -f', { fresh: true }, ['smtpd', '-f']],
    ['-f -- smtpd', { fresh: true }, ['smtpd']],
    ['-- -smtpd --', {}, ['-smtpd', '--']],
    ['-t 5 smtpd', { timeout: '5' }, ['smtpd']],
    ['-t5 smtpd', { timeout: '5' }, ['smtpd']],
    ['-ft5 smtpd', { fresh: true, timeout: '5' }, ['smtpd']],
    ['-ft 5 smtpd', { fresh: true, timeout: '5' }, ['smtpd']],
    ['-fS smtpd', { fresh: true, S: true }, ['smtpd']],
    ['--timeout 5 smtpd', { timeout: '5' }, ['smtpd']],
    ['--timeout=5 smtpd 5', { timeout: '5' }, ['smtpd', '5']],
    ['--fresh -t 7 - -t', { fresh: true, timeout: '7' }, ['-', '-t']],
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
    ['--timeout', '--timeout'],
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
  const range = { least: 1, most: 10, standard: 3 };
  test('gives the standard where there is no option', () => {
    assert.equal(numberOption({}, 'timeout', range), 3);
  });
  test('takes both ends of the range', () => {
    assert.equal(numberOption({ timeout: '1' }, 'timeout', range), 1);
    assert.equal(numberOption({ timeout: '10' }, 'timeout', range), 10);
  });
  for (const text of ['0', '11', '-1', '1.5', '1e1', '', ' 2', 'x']) {
    test(`refuses "${text}", and says so by the option's name`, () => {
      assert.throws(
        () => numberOption({ timeout: text }, 'timeout', range),
        /--timeout takes a whole number from 1 to 10/,
      );
      assert.throws(() => numberOption({ t: text }, 't', range), /: -t takes/);
    });
  }
});
