import assert from 'node:assert/strict';
import { it } from 'node:test';
import { parseSrsKeys } from '../../../lib/srs/keys.ts';

function parse(text: string): [keys: string[], lines: number] {
  const { keys, lines } = parseSrsKeys(Buffer.from(text, 'latin1'));
  return [keys.map((key) => key.toString('latin1')), lines];
}

it('a file of keys has one a line, without the white space around it', () => {
  assert.deepEqual(parse('one\ntwo two\n'), [['one', 'two two'], 2]);
  assert.deepEqual(parse('  one\t\r\ntwo'), [['one', 'two'], 2]);
  assert.deepEqual(parse('\xe4\xff\n'), [['\xe4\xff'], 1]);
});

it('comments and empty lines are ignored, and counted as lines', () => {
  assert.deepEqual(parse('# old\n\none\n \t\n  # new\ntwo#\n'), [['one', 'two#'], 6]);
});

it('a file may have no keys', () => {
  assert.deepEqual(parse(''), [[], 0]);
  assert.deepEqual(parse('\n# none\n'), [[], 2]);
});
