/** Reading files of keys and certificates: lib/tls/file.ts. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { readRegularFile } from '../../../lib/tls/file.ts';

describe('readRegularFile', () => {
  let folder: string;
  let writer: ReturnType<typeof openFifo>;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'file-'));
    writer = openFifo(join(folder, 'fifo'));
  });
  after(() => {
    closeSync(writer.descriptor);
    rmSync(folder, { recursive: true, force: true });
  });

  for (const size of [0, 1, 65_536, 65_537, 4 * 1024 * 1024]) {
    it(`reads a file of ${size} octets`, () => {
      const path = join(folder, 'file');
      const content = Buffer.alloc(size, 'abc');
      writeFileSync(path, content);
      assert.deepEqual(readRegularFile('KEYFILE', path), content);
    });
  }

  it('reads the target of a link', () => {
    const path = join(folder, 'link');
    writeFileSync(join(folder, 'target'), 'content');
    symlinkSync('target', path);
    assert.equal(readRegularFile('KEYFILE', path).toString(), 'content');
  });

  it('reads a file whose size the system does not know', () => {
    assert.match(readRegularFile('KEYFILE', '/proc/self/status').toString(), /^Name:/);
  });

  it('refuses a file of more than 4 MiB', () => {
    const path = join(folder, 'large');
    writeFileSync(path, '');
    for (const size of [4 * 1024 * 1024 + 1, 2 ** 40]) {
      truncateSync(path, size);
      assert.throws(() => readRegularFile('KEYFILE', path), {
        status: 100,
        message: `unable to read KEYFILE ${path}: larger than 4 MiB`,
      });
    }
  });

  for (const [what, path] of [
    ['a FIFO', () => writer.path],
    ['a pipe', () => `/dev/fd/${writer.descriptor}`],
    ['a folder', () => folder],
    ['a device', () => '/dev/zero'],
  ] as const) {
    it(`refuses ${what}`, () => {
      assert.throws(() => readRegularFile('KEYFILE', path()), {
        status: 100,
        message: `unable to read KEYFILE ${path()}: not a regular file`,
      });
    });
  }

  it('reports the error of the system', () => {
    const path = join(folder, 'missing');
    assert.throws(() => readRegularFile('KEYFILE', path), {
      status: 111,
      message: `unable to read KEYFILE ${path}: ENOENT (no such file, or a link to one that does not exist)`,
    });
  });

  it('leaves no descriptor open', () => {
    const free = lowestFree();
    assert.throws(() => readRegularFile('KEYFILE', folder));
    readRegularFile('KEYFILE', '/proc/self/status');
    assert.equal(lowestFree(), free);
  });
});

/** A FIFO with a writer: without one, opening it would block this process. */
function openFifo(path: string): { path: string; descriptor: number } {
  execFileSync('mkfifo', [path]);
  return { path, descriptor: openSync(path, 'r+') };
}

/** The number of the next descriptor. */
function lowestFree(): number {
  const descriptor = openSync('/dev/null', 'r');
  closeSync(descriptor);
  return descriptor;
}
