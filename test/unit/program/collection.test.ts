/** A collection, compared with a Set. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createCollection } from '../../../lib/program/collection.ts';

describe('createCollection', () => {
  it('has what was added and not removed, in any order of removal', () => {
    for (let order = 0; order < 24; order++) {
      const collection = createCollection<number>();
      const expected = new Set([0, 1, 2, 3]);
      const removals = [...expected].map((value) => ({ value, remove: collection.add(value) }));
      for (let left = 4, rest = order; left > 0; rest = Math.floor(rest / left), left--) {
        const [removal] = removals.splice(rest % left, 1);
        assert.ok(removal);
        removal.remove();
        expected.delete(removal.value);
        assert.deepEqual([...collection.all()].sort(), [...expected]);
        assert.equal(collection.size(), expected.size);
      }
    }
  });

  it('removes an object once, although it was added twice or removed twice', () => {
    const collection = createCollection<string>();
    const remove = collection.add('a');
    collection.add('a');
    remove();
    remove();
    assert.deepEqual(collection.all(), ['a']);
  });
});
