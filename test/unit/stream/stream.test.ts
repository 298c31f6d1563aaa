/** Byte streams over descriptors: pausing, failure and end. */

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, fstatSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Duplex, PassThrough, Writable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { describe, it, type TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { sinkOfStream, sourceOfStream } from '../../../lib/stream/byte-stream.ts';
import { closeDescriptors, openDescriptors, openSink, openSource } from '../../../lib/stream/descriptor.ts';
import { flow } from '../../../lib/stream/flow.ts';
import { settle } from '../../support/clock.ts';
import { DEADLINE, within } from '../../support/within.ts';

/** A FIFO with both its ends in this process. */
function makeFifo(): { readEnd: number; writeEnd: number } {
  const folder = mkdtempSync(join(tmpdir(), 'stream-'));
  const path = join(folder, 'fifo');
  execFileSync('mkfifo', [path]);
  const readEnd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const writeEnd = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  rmSync(folder, { recursive: true });
  return { readEnd, writeEnd };
}

function isOpen(fd: number): boolean {
  try {
    fstatSync(fd);
    return true;
  } catch {
    return false;
  }
}

describe('openSource', () => {
  it('reads nothing before read, and nothing after pause', async (t) => {
    const { readEnd, writeEnd } = makeFifo();
    t.after(() => closeSync(writeEnd));
    const source = openSource(readEnd);
    const received: string[] = [];
    source.listen({
      bytes: (bytes) => {
        received.push(Buffer.from(bytes).toString());
        source.pause();
      },
      ended: () => {},
    });
    const left = Buffer.alloc(100);
    writeSync(writeEnd, 'early');
    await settle();
    assert.deepEqual(received, []);
    source.read();
    await settle();
    assert.deepEqual(received, ['early']);
    writeSync(writeEnd, 'later');
    await settle();
    assert.deepEqual(received, ['early']);
    assert.equal(left.toString('latin1', 0, readSync(readEnd, left)), 'later');
    source.close();
  });

  it('resumes where it was paused', async () => {
    const { readEnd, writeEnd } = makeFifo();
    const source = openSource(readEnd);
    let received = '';
    const ended = new Promise<void>((resolve) => {
      source.listen({
        bytes: (bytes) => {
          received += Buffer.from(bytes).toString();
          source.pause();
          setTimeout(source.read);
        },
        ended: () => resolve(),
      });
    });
    source.read();
    for (const piece of ['a', 'b', 'c']) {
      writeSync(writeEnd, piece);
      await settle();
    }
    closeSync(writeEnd);
    await ended;
    assert.equal(received, 'abc');
  });

  it('notifies a later listener of an earlier end', async () => {
    const { readEnd, writeEnd } = makeFifo();
    const source = openSource(readEnd);
    await new Promise<void>((resolve) => {
      source.listen({ bytes() {}, ended: () => resolve() });
      source.read();
      closeSync(writeEnd);
    });
    await new Promise<void>((resolve) => source.listen({ bytes() {}, ended: () => resolve() }));
  });

  it('throws for a file', () => {
    const fd = openSync('/etc/passwd', 'r');
    assert.throws(() => openSource(fd));
    closeSync(fd);
  });
});

describe('openSink', () => {
  it('reports when the kernel has not taken everything, and when it has', async (t) => {
    const { readEnd, writeEnd } = makeFifo();
    t.after(() => closeSync(readEnd));
    const sink = openSink(writeEnd);
    let drained = 0;
    sink.listen({
      drained: () => {
        drained += 1;
      },
      failed: assert.fail,
    });
    assert.equal(sink.write(Buffer.from('little')), true);
    assert.equal(sink.write(Buffer.alloc(100_000)), false);
    await settle();
    assert.equal(drained, 0);
    for (let left = 100_006; left > 0; await setImmediate()) left -= tryRead(readEnd);
    await settle();
    assert.equal(drained, 1);
    sink.close();
  });

  it('notifies a later listener that the reader is gone, and discards further bytes', async () => {
    const { readEnd, writeEnd } = makeFifo();
    const sink = openSink(writeEnd);
    closeSync(readEnd);
    sink.write(Buffer.from('x'));
    await settle();
    await new Promise<void>((resolve) => sink.listen({ drained() {}, failed: () => resolve() }));
    assert.equal(sink.write(Buffer.from('x')), true);
    await new Promise<void>((resolve) => sink.end(resolve));
  });

  it('writes the bytes that wait before it ends, and then closes', async () => {
    const { readEnd, writeEnd } = makeFifo();
    const sink = openSink(writeEnd);
    assert.equal(sink.write(Buffer.alloc(100_000)), false);
    const ended = new Promise<void>((resolve) => sink.end(resolve));
    let octets = 0;
    for (; octets < 100_000; await setImmediate()) octets += tryRead(readEnd);
    await ended;
    await settle();
    assert.equal(readSync(readEnd, Buffer.alloc(1)), 0);
    assert.equal(isOpen(writeEnd), false);
    closeSync(readEnd);
  });
});

function tryRead(fd: number): number {
  try {
    return readSync(fd, Buffer.alloc(65536));
  } catch {
    return 0;
  }
}

describe('openDescriptors', () => {
  it('closes two descriptors separately', async (t) => {
    const [one, other] = [makeFifo(), makeFifo()];
    t.after(() => closeDescriptors([one.writeEnd, other.readEnd]));
    const { source, sink } = openDescriptors(one.readEnd, other.writeEnd);
    source.close();
    await settle();
    assert.deepEqual([isOpen(one.readEnd), isOpen(other.writeEnd)], [false, true]);
    sink.close();
    await settle();
    assert.equal(isOpen(other.writeEnd), false);
  });

  it('continues to write to a descriptor for both directions when the source is closed', async (t) => {
    const { other, output } = openShared(
      t,
      `source.listen({
        bytes() {},
        ended() {
          source.close();
          source.close();
          sink.write(Buffer.alloc(1_000_000, 'x'));
          sink.end(() => sink.close());
        },
      });
      source.read();`,
    );
    other.end();
    assert.equal((await within(DEADLINE, 'end of what is written', text(other))).length, 1_000_000);
    assert.equal(await output, '');
  });

  it('continues to read from a descriptor for both directions when the sink is closed', async (t) => {
    const { other, output } = openShared(
      t,
      `let octets = 0;
      source.listen({
        bytes(bytes) {
          octets += bytes.length;
          sink.close();
          sink.close();
        },
        ended() {
          console.log(octets);
          source.close();
        },
      });
      source.read();`,
    );
    other.write('first');
    other.end(Buffer.alloc(1_000_000));
    assert.equal(await output, '1000005\n');
    assert.equal(await text(other), '');
  });

  it('notifies no listener of the end after a descriptor for both directions was closed', async (t) => {
    const { other, output } = openShared(
      t,
      `const listener = {
        bytes() {
          source.close();
          sink.close();
        },
        ended: () => console.log('ended'),
        drained: () => console.log('drained'),
        failed: () => console.log('failed'),
      };
      source.listen(listener);
      sink.listen(listener);
      source.read();
      sink.write(Buffer.alloc(1_000_000));`,
    );
    other.write('go');
    assert.equal(await output, '');
    other.destroy();
  });
});

/**
 * Runs a script that has a `source` and a `sink` on one descriptor for both directions.
 *
 * @returns the other end of the descriptor, and everything the script writes to stdout.
 */
function openShared(t: TestContext, script: string): { other: Duplex; output: Promise<string> } {
  const module = new URL('../../../lib/stream/descriptor.ts', import.meta.url).href;
  const program = `
    import { openDescriptors } from ${JSON.stringify(module)};
    const { source, sink } = openDescriptors(3, 3);
    ${script}`;
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', '--input-type=module', '--eval', program],
    // What Node calls a pipe here is a socket pair.
    { stdio: ['ignore', 'pipe', 'inherit', 'pipe'] },
  );
  t.after(() => child.kill('SIGKILL'));
  const other = child.stdio[3];
  assert.ok(other instanceof Duplex && child.stdout !== null);
  other.on('error', () => {});
  return { other, output: within(DEADLINE, 'end of the program', text(child.stdout)) };
}

describe('closeDescriptors', () => {
  it('closes a repeated number once', () => {
    const fd = openSync('/dev/null', 'r');
    closeDescriptors([fd, fd, fd]);
    assert.equal(isOpen(fd), false);
  });
});

describe('sourceOfStream', () => {
  /** A source that is read, and the events of its listener. */
  function read(stream: Duplex) {
    const source = sourceOfStream(stream);
    const events: string[] = [];
    source.listen({
      bytes: (bytes) => events.push(Buffer.from(bytes).toString()),
      ended: (failure) => events.push(failure === undefined ? 'end' : `failure: ${failure.message}`),
    });
    return { source, events };
  }

  it('gives nothing before it is read, nor while it is paused', async () => {
    const stream = new PassThrough();
    const { source, events } = read(stream);
    stream.write('early');
    await settle();
    assert.deepEqual(events, []);
    source.read();
    await settle();
    source.pause();
    stream.end('late');
    await settle();
    assert.deepEqual(events, ['early']);
    source.read();
    await settle();
    assert.deepEqual(events, ['early', 'late', 'end']);
  });

  for (const [what, destroy, expected] of [
    ['an end and a close', (stream: Duplex) => stream.end(), 'end'],
    ['a close alone', (stream: Duplex) => stream.destroy(), 'end'],
    ['a failure and a close', (stream: Duplex) => stream.destroy(new Error('why')), 'failure: why'],
  ] as const) {
    it(`notifies once for ${what}`, async () => {
      const stream = new PassThrough();
      const { source, events } = read(stream);
      source.read();
      destroy(stream);
      await settle();
      assert.deepEqual(events, [expected]);
    });
  }

  it('notifies only the last of two later listeners of an earlier end', async () => {
    const stream = new PassThrough();
    const { source } = read(stream);
    stream.destroy();
    await settle();
    const notified: string[] = [];
    for (const name of ['one', 'other']) source.listen({ bytes() {}, ended: () => void notified.push(name) });
    await settle();
    assert.deepEqual(notified, ['other']);
  });

  it('notifies no listener of the end after it was closed', async () => {
    const stream = new PassThrough();
    const { source, events } = read(stream);
    source.read();
    source.close();
    await settle();
    source.listen({ bytes() {}, ended: () => void events.push('late') });
    await settle();
    assert.deepEqual([events, stream.destroyed], [[], true]);
  });
});

describe('sinkOfStream', () => {
  it('discards what is written after the end, without a failure', async () => {
    const stream = new PassThrough();
    const sink = sinkOfStream(stream);
    sink.listen({ drained: assert.fail, failed: assert.fail });
    sink.write(Buffer.from('all'));
    sink.end();
    assert.equal(sink.write(Buffer.from('lost')), true);
    sink.end();
    assert.equal(await text(stream), 'all');
  });

  it('reports the end once, when everything is written, though the stream stays open for reading', async () => {
    const stream = new PassThrough();
    const sink = sinkOfStream(stream);
    let calls = 0;
    const ended = new Promise<void>((resolve) => {
      sink.end(() => {
        calls += 1;
        resolve();
      });
    });
    await within(DEADLINE, 'end of the sink', ended);
    assert.equal(stream.destroyed, false);
    stream.destroy();
    await settle();
    assert.equal(calls, 1);
    await within(DEADLINE, 'end of a sink that has ended', new Promise<void>((resolve) => sink.end(resolve)));
  });

  it('notifies no listener of a failure after it was closed', async () => {
    const stream = new PassThrough({ highWaterMark: 1 });
    const sink = sinkOfStream(stream);
    sink.listen({ drained: assert.fail, failed: assert.fail });
    assert.equal(sink.write(Buffer.from('waits')), false);
    sink.close();
    await settle();
    assert.ok(stream.destroyed);
  });

  it('reports the end when the stream fails meanwhile', async () => {
    const stream = new Writable({ write: (_bytes, _encoding, done) => setTimeout(done, 1, new Error('no')) });
    const sink = sinkOfStream(stream);
    assert.equal(sink.write(Buffer.from('x')), false);
    await new Promise<void>((resolve) => sink.end(resolve));
  });

  it('treats a stream that was destroyed as failed', async () => {
    const stream = new PassThrough();
    const sink = sinkOfStream(stream);
    const failed = new Promise<Error>((resolve) => sink.listen({ drained() {}, failed: resolve }));
    stream.destroy();
    assert.match((await failed).message, /closed before everything was written/);
  });
});

describe('flow', () => {
  it('sends the first bytes first, and pauses its source while the sink is full', async () => {
    const from = new PassThrough();
    const to = new PassThrough({ highWaterMark: 1 });
    const passed: number[] = [];
    const one = flow(sourceOfStream(from), sinkOfStream(to), {
      first: Buffer.from('first,'),
      passed: (bytes) => passed.push(bytes.length),
    });
    from.write('second');
    await settle();
    assert.ok(one.isStalled());
    assert.deepEqual(passed, [6]);
    let received = '';
    to.on('data', (bytes) => {
      received += bytes;
    });
    from.end();
    assert.equal(await one.ended, 'source-ended');
    await settle();
    assert.equal(received, 'first,second');
    assert.deepEqual(passed, [6, 6]);
  });

  it('ends when the sink fails, stalled or not', async () => {
    for (const first of ['', 'stalls']) {
      const from = new PassThrough();
      const to = new PassThrough({ highWaterMark: 1 });
      const one = flow(sourceOfStream(from), sinkOfStream(to), { first: Buffer.from(first), passed() {} });
      assert.equal(one.isStalled(), first !== '');
      to.destroy();
      assert.equal(await one.ended, 'sink-failed');
      assert.equal(one.isStalled(), false);
    }
  });

  it('leaves its source and its sink open', async () => {
    const from = new PassThrough();
    const to = new PassThrough();
    to.resume();
    const one = flow(sourceOfStream(from), sinkOfStream(to), { first: Buffer.alloc(0), passed() {} });
    from.end('all');
    await one.ended;
    assert.equal(to.writableEnded, false);
    to.end();
    await once(to, 'finish');
  });
});
