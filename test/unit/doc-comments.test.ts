/** The examples in the doc comments of lib: each is run, and gives the values that it states. */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';

/** The exports that a newcomer meets first. */
const EXPORTS_WITH_EXAMPLE = ['createDialogue', 'createLineReader', 'parseProxyHeader'];

/** A doc comment and the name of the function that it is about. */
const DOCUMENTED = /\/\*\*((?:(?!\*\/).)*)\*\/\s*export (?:async )?function (\w+)/gs;
/** The code of an example, with the asterisks of the comment. */
const EXAMPLE = /@example\n \* ```ts\n(.*?) \* ```/gs;
/** A line of an example that states the value of an expression: `1 + 1; // => 2`. */
const STATED_VALUE = /^(.*); \/\/ => (.*)$/gm;

interface Example {
  /** The file and the export that it belongs to. */
  readonly file: string;
  readonly name: string;
  readonly code: string;
}

const FILES = readdirSync('lib', { encoding: 'utf8', recursive: true })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => join('lib', name));
const EXAMPLES = FILES.flatMap(examplesOf);

function examplesOf(file: string): Example[] {
  return [...readFileSync(file, 'utf8').matchAll(DOCUMENTED)].flatMap(([, comment = '', name = '']) =>
    [...comment.matchAll(EXAMPLE)].map(([, lines = '']) => ({
      file,
      name,
      code: lines.replaceAll(/^ \* ?/gm, ''),
    })),
  );
}

/** Runs code, in which `name` is `value`. @returns how many values were checked. */
function run(code: string, name: string, value: unknown): number {
  let count = 0;
  const check = (actual: unknown, expected: unknown, expression: string): void => {
    assert.deepEqual(actual, expected, `${expression} is not the stated value`);
    count += 1;
  };
  const checked = code.replaceAll(
    STATED_VALUE,
    (_, expression: string, stated: string) =>
      `check(${expression}, ${stated}, ${JSON.stringify(expression)});`,
  );
  new Function('check', name, checked)(check, value);
  return count;
}

describe('the examples in doc comments', () => {
  for (const name of EXPORTS_WITH_EXAMPLE) {
    it(`include one of ${name}`, () => {
      assert.ok(EXAMPLES.some((example) => example.name === name));
    });
  }

  it('are all found', () => {
    const tags = FILES.flatMap((file) => readFileSync(file, 'utf8').match(/@example\b/g) ?? []);
    assert.equal(EXAMPLES.length, tags.length, 'an example is not in the form that this test looks for');
  });

  for (const { file, name, code } of EXAMPLES) {
    it(`are right about ${name}`, async () => {
      const module: Record<string, unknown> = await import(join(process.cwd(), file));
      const stated = code.split('// =>').length - 1;
      assert.ok(stated > 0, 'the example states no value');
      assert.equal(run(code, name, module[name]), stated);
    });
  }
});

describe('the check of an example', () => {
  const double = (number: number): number => 2 * number;

  it('accepts the right value', () => {
    assert.equal(run('const two = 2;\ndouble(two); // => 4\ndouble(3); // => 6', 'double', double), 2);
  });

  it('rejects a wrong value', () => {
    assert.throws(() => run('double(2); // => 5', 'double', double), /^AssertionError.*: double\(2\) is not/);
  });

  it('rejects code that throws', () => {
    assert.throws(() => run('single(2); // => 2', 'double', double), ReferenceError);
  });
});
