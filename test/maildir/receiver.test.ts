/** The receiver, tested with each transcript in this folder, in whole packets and in pieces. */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { createReceiver } from '../../lib/maildir/protocol/receiver.ts';
import { parseTranscripts, replay } from './transcript.ts';

const FOLDER = new URL('.', import.meta.url);

for (const file of readdirSync(FOLDER).filter((name) => name.endsWith('.transcript'))) {
  describe(file, () => {
    for (const transcript of parseTranscripts(readFileSync(new URL(file, FOLDER), 'latin1'))) {
      it(transcript.title, () => {
        compare(replay(transcript, Number.MAX_SAFE_INTEGER), transcript.lines, 'whole');
        // In pieces, the same replies come in the same order, but earlier.
        for (const size of [1, 2, 3, 5, 7, 1000]) {
          const seen = replay(transcript, size).filter(cameOut);
          compare(seen, transcript.lines.filter(cameOut), `in pieces of ${size}`);
        }
      });
    }
  });
}

function cameOut(line: string): boolean {
  return /^[S|=]/.test(line);
}

/** A transcript may contain only the start of a reply. */
function compare(seen: readonly string[], wanted: readonly string[], how: string): void {
  const cut = seen.map((line, i) => (line.startsWith('S:') ? line.slice(0, wanted[i]?.length) : line));
  assert.deepEqual(cut, wanted, how);
}

describe('createReceiver', () => {
  it('consumes one command at a time', () => {
    const receiver = createReceiver({ host: 'mx.example', sizeLimit: 0 });
    receiver.fromClient(Buffer.from('NOOP\r\n'.repeat(10_000)));
    let count = 0;
    for (let step = receiver.next(); step?.type === 'reply'; step = receiver.next()) {
      count += 1;
      assert.ok(step.bytes.length < 100, 'one reply at a time');
    }
    assert.equal(count, 10_001);
  });

  it('consumes nothing after DATA until the delivery has started', () => {
    const receiver = createReceiver({ host: 'mx.example', sizeLimit: 0 });
    receiver.fromClient(Buffer.from('EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nQUIT\r\n'));
    const types: string[] = [];
    for (let step = receiver.next(); step !== undefined; step = receiver.next()) types.push(step.type);
    assert.deepEqual(types, ['reply', 'reply', 'reply', 'reply', 'open']);
    assert.equal(receiver.next(), undefined);
    receiver.opened();
    assert.equal(receiver.next()?.type, 'reply');
    const step = receiver.next();
    assert.ok(step?.type === 'write');
    assert.equal(step.bytes.toString(), 'QUIT\n');
  });

  it('handles commands received before the client half-closed', () => {
    const receiver = createReceiver({ host: 'mx.example', sizeLimit: 0 });
    receiver.fromClient(Buffer.from('NOOP\r\nNOOP\r\n'));
    receiver.clientEnded();
    const types: string[] = [];
    for (let step = receiver.next(); step !== undefined; step = receiver.next()) types.push(step.type);
    assert.deepEqual(types, ['reply', 'reply', 'reply', 'discard', 'close']);
  });

  it('does not count recipients above the limit as errors', () => {
    const receiver = createReceiver({ host: 'mx.example', sizeLimit: 0 });
    receiver.fromClient(Buffer.from('HELO me\r\nMAIL FROM:<a@b>\r\n'));
    receiver.fromClient(Buffer.from('RCPT TO:<c@d>\r\n'.repeat(1000)));
    receiver.fromClient(Buffer.from('DATA\r\n'));
    const steps: string[] = [];
    for (let step = receiver.next(); step !== undefined; step = receiver.next())
      steps.push(step.type === 'reply' ? step.bytes.toString().slice(0, 3) : step.type);
    const recipients = [...Array<string>(100).fill('250'), ...Array<string>(900).fill('452')];
    assert.deepEqual(steps, ['220', '250', '250', ...recipients, 'open']);
  });
});
