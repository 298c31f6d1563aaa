/** A buffer that gathers writes: lib/stream/write-buffer.ts. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createWriteBuffer } from '../../../lib/stream/write-buffer.ts';

describe('createWriteBuffer', () => {
  it('returns what was pushed, in order, and counts its octets', () => {
    const buffer = createWriteBuffer();
    for (const text of ['250-mail.example\r\n', '', '250-h\xc3\xa9\r\n', '250 SIZE\r\n']) {
      buffer.push(Buffer.from(text, 'latin1'));
    }
    assert.equal(buffer.size(), 37);
    assert.equal(buffer.take().toString('latin1'), '250-mail.example\r\n250-h\xc3\xa9\r\n250 SIZE\r\n');
  });

  it('is empty at first, and after everything was taken', () => {
    const buffer = createWriteBuffer();
    assert.deepEqual([buffer.size(), buffer.take().length], [0, 0]);
    buffer.push(Buffer.from('one'));
    const one = buffer.take();
    assert.deepEqual([buffer.size(), buffer.take().length], [0, 0]);
    buffer.push(Buffer.from('two'));
    assert.deepEqual([one.toString(), buffer.take().toString()], ['one', 'two']);
  });

  it('takes a Uint8Array, and octets of any value', () => {
    const buffer = createWriteBuffer();
    buffer.push(Uint8Array.of(0, 255, 10));
    buffer.push(Buffer.from([128]));
    assert.deepEqual(buffer.take(), Buffer.from([0, 255, 10, 128]));
  });
});
