/** The reception, tried with every transcript in this folder, whole and in pieces. */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { createReception } from '../../lib/maildir/protocol/receiver.ts';
import { parseTranscripts, replay } from './transcript.ts';

const FOLDER = new URL('.', import.meta.url);

for (const file of readdirSync(FOLDER).filter((name) => name.endsWith('.transcript'))) {
  describe(file, () => {
    for (const transcript of parseTranscripts(readFileSync(new URL(file, FOLDER), 'latin1'))) {
      it(transcript.title, () => {
        compare(replay(transcript, Number.MAX_SAFE_INTEGER), transcript.lines, 'whole');
        // In pieces replies come earlier, but no others and in the same order.
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

/** A transcript may leave the last words of a reply out. */
function compare(seen: readonly string[], wanted: readonly string[], how: string): void {
  const cut = seen.map((line, i) => (line.startsWith('S:') ? line.slice(0, wanted[i]?.length) : line));
  assert.deepEqual(cut, wanted, how);
}

describe('createReception', () => {
  it('takes no command while a step is not done with', () => {
    const reception = createReception({ host: 'mx.example', sizeLimit: 0 });
    reception.fromClient(Buffer.from('NOOP\r\n'.repeat(10_000)));
    let count = 0;
    for (let step = reception.next(); step?.type === 'reply'; step = reception.next()) {
      count += 1;
      assert.ok(step.bytes.length < 100, 'one reply at a time');
    }
    assert.equal(count, 10_001);
  });

  it('takes nothing behind DATA for a command or for text before there is room', () => {
    const reception = createReception({ host: 'mx.example', sizeLimit: 0 });
    reception.fromClient(Buffer.from('EHLO me\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nQUIT\r\n'));
    const types: string[] = [];
    for (let step = reception.next(); step !== undefined; step = reception.next()) types.push(step.type);
    assert.deepEqual(types, ['reply', 'reply', 'reply', 'reply', 'open']);
    assert.equal(reception.next(), undefined);
    reception.opened();
    assert.equal(reception.next()?.type, 'reply');
    const step = reception.next();
    assert.ok(step?.type === 'write');
    assert.equal(step.bytes.toString(), 'QUIT\n');
  });

  it('carries out what came before the client half-closed', () => {
    const reception = createReception({ host: 'mx.example', sizeLimit: 0 });
    reception.fromClient(Buffer.from('NOOP\r\nNOOP\r\n'));
    reception.clientEnded();
    const types: string[] = [];
    for (let step = reception.next(); step !== undefined; step = reception.next()) types.push(step.type);
    assert.deepEqual(types, ['reply', 'reply', 'reply', 'discard', 'close']);
  });

  it('counts no recipient above the limit as an error', () => {
    const reception = createReception({ host: 'mx.example', sizeLimit: 0 });
    reception.fromClient(Buffer.from('HELO me\r\nMAIL FROM:<a@b>\r\n'));
    reception.fromClient(Buffer.from('RCPT TO:<c@d>\r\n'.repeat(1000)));
    reception.fromClient(Buffer.from('DATA\r\n'));
    const steps: string[] = [];
    for (let step = reception.next(); step !== undefined; step = reception.next())
      steps.push(step.type === 'reply' ? step.bytes.toString().slice(0, 3) : step.type);
    const recipients = [...Array<string>(100).fill('250'), ...Array<string>(900).fill('452')];
    assert.deepEqual(steps, ['220', '250', '250', ...recipients, 'open']);
  });
});
