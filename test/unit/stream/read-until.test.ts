/** Reading until something can be parsed: lib/stream/read-until.ts. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { describe, it } from 'node:test';
import { readUntil } from '../../../lib/stream/read-until.ts';

/** A text up to a full stop. Throws at an exclamation mark. */
function sentence(received: Buffer): { readonly text: string; readonly rest: Buffer } | undefined {
  if (received.includes('!')) throw new Error('an exclamation mark');
  const end = received.indexOf('.') + 1;
  return end === 0 ? undefined : { text: received.toString('latin1', 0, end), rest: received.subarray(end) };
}

const read = (stream: PassThrough) => readUntil(stream, 'the full stop', sentence);

async function restOf(stream: PassThrough): Promise<string> {
  const parts: Buffer[] = [];
  for await (const bytes of stream) parts.push(bytes);
  return Buffer.concat(parts).toString('latin1');
}

/** The listeners that a stream has of its own are not counted. */
function listenersOf(stream: PassThrough): number {
  return ['data', 'error', 'end', 'close'].reduce((sum, event) => sum + stream.listenerCount(event), 0);
}

describe('readUntil', () => {
  it('gives the parser all bytes so far, and returns its result', async () => {
    const stream = new PassThrough();
    const result = read(stream);
    for (const letter of 'One two.') stream.write(letter);
    assert.deepEqual(await result, { text: 'One two.', rest: Buffer.alloc(0) });
  });

  it('puts back what follows, pauses the stream and leaves no listener', async () => {
    const stream = new PassThrough();
    const own = listenersOf(stream);
    stream.pause();
    const result = read(stream);
    stream.write('One. Two');
    assert.equal((await result).text, 'One.');
    assert.deepEqual([stream.isPaused(), listenersOf(stream)], [true, own]);
    stream.end(' three.');
    assert.equal(await restOf(stream), ' Two three.');
  });

  it('puts back nothing when nothing follows, also at the end of the stream', async () => {
    const stream = new PassThrough();
    const result = read(stream);
    stream.end('One.');
    await result;
    assert.equal(await restOf(stream), '');
  });

  it('throws what the parser throws, pauses the stream and leaves no listener', async () => {
    const stream = new PassThrough();
    const own = listenersOf(stream);
    const result = read(stream);
    stream.write('One!');
    await assert.rejects(result, { message: 'an exclamation mark' });
    assert.deepEqual([stream.isPaused(), listenersOf(stream)], [true, own]);
  });

  for (const how of ['end', 'destroy'] as const) {
    it(`throws when the stream ends first (${how})`, async () => {
      const stream = new PassThrough();
      const result = read(stream);
      stream.write('One');
      stream[how]();
      await assert.rejects(result, { message: 'the connection ended before the full stop' });
    });
  }

  it('throws the error of the stream', async () => {
    const stream = new PassThrough();
    const result = read(stream);
    stream.destroy(new Error('reset'));
    await assert.rejects(result, { message: 'reset' });
  });

  it('reads two things in turn', async () => {
    const stream = new PassThrough();
    stream.write('One. Two.');
    assert.equal((await read(stream)).text, 'One.');
    assert.equal((await read(stream)).text, ' Two.');
    stream.end();
    stream.resume();
    await once(stream, 'close');
  });
});
