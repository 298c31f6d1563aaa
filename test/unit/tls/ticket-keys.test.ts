/** Session ticket keys from a file: lib/tls/ticket-keys.ts. */

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { readTicketKeys } from '../../../lib/tls/ticket-keys.ts';

describe('readTicketKeys', () => {
  let folder: string;
  let path: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'ticket-keys-'));
    path = join(folder, 'keys');
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  const keys = randomBytes(48);
  const text = keys.toString('base64');
  const other = randomBytes(48).toString('base64');

  for (const [what, content] of [
    ['48 octets', keys],
    ['base64', text],
    ['base64 with a newline', `${text}\n`],
    ['base64 with CRLF', `${text}\r\n`],
    ['the first of several lines', `${text}\n${other}\n${other}\n`],
    ['the first line among empty ones', `\n${text}\n\n${other}`],
  ] as const) {
    it(`reads ${what}`, () => {
      writeFileSync(path, content);
      assert.deepEqual(readTicketKeys(path), keys);
    });
  }

  it('reads 48 octets as raw keys even if they are text', () => {
    writeFileSync(path, 'A'.repeat(48));
    assert.deepEqual(readTicketKeys(path), Buffer.alloc(48, 'A'));
  });

  for (const [what, content, why] of [
    ['nothing', '', /is empty$/],
    ['empty lines', '\n\n', /is empty$/],
    [
      '47 octets',
      keys.subarray(1),
      /is neither 48 octets nor lines of base64 of 64 characters \(see line 1\)$/,
    ],
    ['base64 of 47 octets', keys.subarray(1).toString('base64'), /\(see line 1\)$/],
    ['a truncated second line', `${text}\n${other.slice(1)}\n`, /\(see line 2\)$/],
    ['base64 of 96 octets in one line', `${text}${other}\n`, /\(see line 1\)$/],
  ] as const) {
    it(`refuses ${what}`, () => {
      writeFileSync(path, content);
      assert.throws(() => readTicketKeys(path), { status: 100, message: why });
    });
  }

  it('reveals nothing of the content', () => {
    writeFileSync(path, `${text}.\n`);
    assert.throws(
      () => readTicketKeys(path),
      (error: Error) => error.message.includes(path) && !error.message.includes(text.slice(0, 8)),
    );
  });

  it('names the file that cannot be read', () => {
    const missing = join(folder, 'none');
    assert.throws(() => readTicketKeys(missing), {
      status: 111,
      message: `unable to read ticket keys ${missing}: ENOENT (no such file, or a link to one that does not exist)`,
    });
  });
});
