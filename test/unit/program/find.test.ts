/** Programs that are refused at start-up because they could not be started later. */

import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { Failure } from '../../../lib/program/failure.ts';
import { checkProgram } from '../../../lib/program/find.ts';

const folder = mkdtempSync(join(tmpdir(), 'find-'));
after(() => rmSync(folder, { recursive: true }));

function file(name: string, mode: number): string {
  const path = join(folder, name);
  writeFileSync(path, '#!/bin/sh\n');
  chmodSync(path, mode);
  return path;
}

const good = file('good', 0o755);
file('plain', 0o644);
file('owners', 0o100);
file('others', 0o001);
mkdirSync(join(folder, 'sub'));
mkdirSync(join(folder, 'sub/good'));
symlinkSync(good, join(folder, 'link'));
symlinkSync(join(folder, 'nowhere'), join(folder, 'dangling'));
symlinkSync('loop', join(folder, 'loop'));

function assertFailure(status: 126 | 127, name: string, path?: string, code: string = CODES[status]): void {
  assert.throws(
    () => checkProgram(name, path),
    (error) =>
      error instanceof Failure &&
      error.status === status &&
      error.message.startsWith(`cannot run ${name}: ${code}`),
  );
}

const CODES = { 126: 'EACCES', 127: 'ENOENT' } as const;

describe('a path', () => {
  for (const name of ['good', 'owners', 'others', 'link', 'sub/../good']) {
    it(`that some user can execute is accepted: ${name}`, () => checkProgram(`${folder}/${name}`, ''));
  }
  for (const name of ['nowhere', 'dangling', 'nowhere/good', 'goo']) {
    it(`that does not exist is refused with 127: ${name}`, () =>
      assertFailure(127, `${folder}/${name}`, folder));
  }
  for (const name of ['plain', 'sub', '']) {
    it(`that no user can execute is refused with 126: ${name || 'the folder'}`, () =>
      assertFailure(126, `${folder}/${name}`));
  }
  it('that goes through a file is refused with 126', () =>
    assertFailure(126, `${folder}/plain/good`, '', 'ENOTDIR'));
  it('that cannot be examined is accepted', () => checkProgram(join(folder, 'loop')));
});

describe('a name', () => {
  it('is searched for in PATH', () => checkProgram('good', `/nowhere:${folder}`));
  it('may follow one that cannot be executed', () => checkProgram('good', `${folder}/sub:${folder}`));
  it('that is not found is refused with 127', () => {
    assertFailure(127, 'good', '/nowhere');
    assertFailure(127, 'no-such-smtpd');
    assertFailure(127, '', '/nowhere');
  });
  it('that no user can execute in any folder is refused with 126', () => {
    assertFailure(126, 'plain', `/nowhere:${folder}`);
    assertFailure(126, 'good', `${folder}/sub`);
  });
  it('is searched for in the default folders when PATH is not set', () => checkProgram('sh', undefined));
  it('is searched for in the working directory for an empty element of PATH', () => {
    assertFailure(126, 'package.json', '');
    assertFailure(126, 'package.json', '/nowhere:');
  });
});
