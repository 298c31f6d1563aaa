/** The line reader: line endings, faults, the limit, and what is discarded. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createLineReader, LINE_LIMIT, type LineReader } from '../../../lib/smtp/line.ts';

function bytes(text: string): Buffer {
  return Buffer.from(text, 'latin1');
}

/** Takes all complete lines; a line with a fault is given as the fault in brackets. */
function takeAll(reader: LineReader): string[] {
  const lines: string[] = [];
  for (let line = reader.peek(); line !== undefined; line = reader.peek()) {
    lines.push(line.fault === undefined ? line.text.toString('latin1') : `[${line.fault}]`);
    reader.drop();
  }
  return lines;
}

function linesOf(...packets: string[]): string[] {
  const reader = createLineReader();
  const lines: string[] = [];
  for (const packet of packets) {
    reader.push(bytes(packet));
    lines.push(...takeAll(reader));
  }
  return lines;
}

describe('createLineReader', () => {
  it('gives lines without their endings, CRLF or LF', () => {
    assert.deepEqual(linesOf('one\r\ntwo\nthree\r\n'), ['one', 'two', 'three']);
    assert.deepEqual(linesOf('\r\n', '\n'), ['', '']);
  });

  it('waits for the end of a line', () => {
    assert.deepEqual(linesOf('on'), []);
    assert.deepEqual(linesOf('on', 'e\r', '\ntw', '', 'o\n'), ['one', 'two']);
  });

  it('gives the same line until it is dropped', () => {
    const reader = createLineReader();
    reader.push(bytes('one\r\ntwo\r\n'));
    assert.equal(reader.peek()?.text.toString(), 'one');
    assert.equal(reader.peek()?.text.toString(), 'one');
    reader.push(bytes('three\r\n'));
    assert.equal(reader.peek()?.text.toString(), 'one');
    assert.deepEqual(takeAll(reader), ['one', 'two', 'three']);
  });

  it('drops nothing when there is no line', () => {
    const reader = createLineReader();
    reader.push(bytes('on'));
    reader.drop();
    reader.push(bytes('e\n'));
    assert.deepEqual(takeAll(reader), ['one']);
  });

  it('copies the bytes: the caller may reuse its buffer', () => {
    const reader = createLineReader();
    const buffer = bytes('one\n');
    reader.push(buffer);
    buffer.fill(0x58);
    assert.deepEqual(takeAll(reader), ['one']);
  });

  it('reports a bare CR and a NUL as a fault of that line only', () => {
    assert.deepEqual(linesOf('a\rb\r\nc\r\r\n\rd\ne\0\n\0\nok\n'), [
      '[control]',
      '[control]',
      '[control]',
      '[control]',
      '[control]',
      'ok',
    ]);
  });

  it('accepts a line of exactly the limit, line ending included, and no longer one', () => {
    for (const end of ['\r\n', '\n']) {
      const longest = 'a'.repeat(LINE_LIMIT - end.length);
      for (const cut of [0, 1, LINE_LIMIT - 2, LINE_LIMIT - 1]) {
        const split = (text: string) => linesOf(text.slice(0, cut), text.slice(cut));
        assert.deepEqual(split(longest + end), [longest]);
        assert.deepEqual(split(`a${longest}${end}`), ['[too-long]']);
      }
    }
  });

  it('gives a line over the limit once, at its end, and then continues', () => {
    const long = 'a'.repeat(LINE_LIMIT);
    assert.deepEqual(linesOf(long, long, `${long}\r\nnext\r\n`), ['[too-long]', 'next']);
    assert.deepEqual(linesOf(long, '\n', 'next\n'), ['[too-long]', 'next']);
    assert.deepEqual(linesOf(`one\n${long}`, 'rest\nnext\n'), ['one', '[too-long]', 'next']);
  });

  it('keeps no more than the limit and the largest packet', () => {
    const reader = createLineReader();
    const packet = bytes('a'.repeat(1000));
    for (let count = 0; count < 200; count++) {
      reader.push(packet);
      assert.ok(reader.rest().length <= LINE_LIMIT + packet.length, `${reader.rest().length} octets`);
    }
  });

  it('accepts another limit', () => {
    const reader = createLineReader(8);
    reader.push(bytes('123456\r\n1234567\r\n'));
    assert.deepEqual(takeAll(reader), ['123456', '[too-long]']);
  });

  it('skips octets that have arrived and octets that have not', () => {
    const reader = createLineReader();
    reader.push(bytes('QUI'));
    reader.skip(8);
    assert.equal(reader.rest().length, 0);
    reader.push(bytes('T\r\n'));
    assert.equal(reader.peek(), undefined);
    reader.push(bytes('XYNOOP\r\n'));
    assert.deepEqual(takeAll(reader), ['NOOP']);
  });

  it('finds the end of a line whose beginning was skipped', () => {
    const reader = createLineReader();
    reader.push(bytes('QUITab'));
    reader.skip(4);
    reader.push(bytes('\n'));
    assert.deepEqual(takeAll(reader), ['ab']);
  });

  it('skips nothing for a count of 0', () => {
    const reader = createLineReader();
    reader.push(bytes('NO'));
    reader.skip(0);
    reader.push(bytes('OP\r\n'));
    assert.deepEqual(takeAll(reader), ['NOOP']);
  });

  it('clears complete lines', () => {
    const reader = createLineReader();
    reader.push(bytes('one\r\ntwo\r\n'));
    reader.clear();
    assert.equal(reader.rest().length, 0);
    reader.push(bytes('three\r\n'));
    assert.deepEqual(takeAll(reader), ['three']);
  });

  it('clears a line of which a part has arrived, to its end', () => {
    for (const start of ['one\r\ntw', 'one\r', 'x'.repeat(LINE_LIMIT + 1)]) {
      const reader = createLineReader();
      reader.push(bytes(start));
      reader.clear();
      reader.push(bytes('still on'));
      reader.push(bytes(' its way\nnext\n'));
      assert.deepEqual(takeAll(reader), ['next'], start.slice(0, 10));
    }
  });

  it('clears nothing when nothing has arrived', () => {
    const reader = createLineReader();
    reader.clear();
    reader.push(bytes('one\n'));
    assert.deepEqual(takeAll(reader), ['one']);
  });

  it('reports whether bytes follow the line', () => {
    const reader = createLineReader();
    reader.push(bytes('one\r\n'));
    assert.equal(reader.hasMore(), false);
    reader.push(bytes('t'));
    assert.equal(reader.hasMore(), true);
    reader.drop();
    reader.push(bytes('wo\n'));
    assert.equal(reader.hasMore(), false);
  });

  it('gives as the rest everything that was not dropped', () => {
    const reader = createLineReader();
    reader.push(bytes('one\ntwo\r\nthr'));
    assert.equal(reader.rest().toString(), 'one\ntwo\r\nthr');
    reader.drop();
    assert.equal(reader.rest().toString(), 'two\r\nthr');
  });

  for (const rest of ['', 'NO']) {
    it(`does not keep the memory of lines that were dropped, before ${JSON.stringify(rest)}`, () => {
      const reader = createLineReader();
      reader.push(bytes('NOOP\r\n'.repeat(10_000) + rest));
      while (reader.peek() !== undefined) reader.drop();
      assert.equal(reader.rest().toString(), rest);
      assert.ok(reader.rest().buffer.byteLength <= 12288);
    });
  }
});
