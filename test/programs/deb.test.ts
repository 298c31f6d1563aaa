import assert from 'node:assert/strict';
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { missing, ROOT } from '../support/programs.ts';

// The package for Debian that "make deb" builds. It is installed below a directory of its own, with a database of its own
// there: the packages of this machine do not matter, and are left as they are.

/** In seconds since 1970: 2023-11-14 22:13:20 UTC. */
const TIME = 1_700_000_000;
const NAME = 'smtpd-starttls-proxy';
const folder = mkdtempSync(join(tmpdir(), 'deb-'));
after(() => rmSync(folder, { recursive: true }));

function run(command: string, ...args: string[]): SpawnSyncReturns<string> {
  return spawnSync(command, args, {
    cwd: ROOT,
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C.UTF-8' },
  });
}

/** Runs a command that must succeed; returns its output. */
function read(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = run(command, ...args);
  assert.equal(status, 0, stdout + stderr);
  return stdout;
}

/** Builds the package of TIME; returns its path. */
function makePackage(): string {
  // MAKEFLAGS of the make that runs the tests must not reach this one.
  const command = ['-u', 'MAKEFLAGS', '-u', 'MAKELEVEL', 'make', 'deb', `SOURCE_DATE_EPOCH=${TIME}`];
  const lines = read('env', ...command)
    .trim()
    .split('\n');
  return join(ROOT, lines.at(-1) ?? '');
}

describe('the package', { skip: missing('dpkg-deb') }, () => {
  let path = '';
  before(() => {
    path = makePackage();
  });

  test('has the version of package.json and depends on Node 20', () => {
    const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
    assert.equal(read('dpkg-deb', '-f', path, 'Version'), `${version}-1~local\n`);
    assert.equal(read('dpkg-deb', '-f', path, 'Depends'), 'nodejs (>= 20)\n');
    assert.equal(read('dpkg-deb', '-f', path, 'Architecture'), 'all\n');
  });

  test('has no other time than that of the source, so that it can be reproduced', () => {
    const times = read('env', 'TZ=UTC', 'dpkg-deb', '--contents', path).match(/\d{4}-\d\d-\d\d \d\d:\d\d/g);
    assert.deepEqual([...new Set(times)], ['2023-11-14 22:13']);
  });

  test('lintian finds no error', { skip: missing('lintian') }, () => {
    read('lintian', '--allow-root', '--fail-on', 'error', path);
  });

  const notRoot = process.getuid?.() === 0 ? false : 'dpkg installs as root';

  test('is not installed beside Node 18', { skip: missing('dpkg') || notRoot }, () => {
    const { status, stderr } = run('dpkg', ...inRoot('refused', '18.19.0'), '--install', path);
    assert.equal(status, 1);
    assert.match(stderr, /depends on nodejs \(>= 20\)/);
  });

  test('is installed, runs, and leaves nothing when it is removed', {
    skip: missing('dpkg', 'man') || notRoot,
  }, () => {
    const options = inRoot('accepted', '20.0.0');
    const root = join(folder, 'accepted');
    read('dpkg', ...options, '--install', path);

    const programs = readdirSync(join(root, 'usr/bin'));
    assert.ok(programs.includes('smtpd-starttls-server'));
    for (const name of programs) {
      const program = join(root, 'usr/bin', name);
      assert.match(readFileSync(program, 'utf8'), /^#!\/usr\/bin\/node\n/);
      // Here, Node 20 may be elsewhere.
      assert.match(read(process.execPath, program, '--version'), new RegExp(`^${name} `));
      assert.match(
        read('man', '-M', join(root, 'usr/share/man'), '8', name),
        new RegExp(`\\b${name}\\(8\\)`, 'i'),
      );
    }
    const doc = join(root, 'usr/share/doc', NAME);
    assert.deepEqual(
      ['README.md', 'changelog.Debian.gz', 'changelog.gz', 'copyright', 'examples'].filter(
        (name) => !readdirSync(doc).includes(name),
      ),
      [],
    );
    const unit = readFileSync(join(doc, 'examples/systemd/smtpd-starttls-server.service'), 'utf8');
    assert.match(unit, /^ExecStart=\/usr\/bin\/smtpd-starttls-server /m);
    assert.ok(statSync(join(doc, 'examples/s6/run')).mode & 0o100);

    read('dpkg', ...options, '--remove', NAME);
    assert.deepEqual(readdirSync(root), ['var']);
    assert.doesNotMatch(read('dpkg', ...options, '--list'), new RegExp(NAME));
  });
});

/** Makes a root directory for dpkg, with a database in which nodejs is installed; returns the options of dpkg for it. */
function inRoot(name: string, nodeVersion: string): string[] {
  const root = join(folder, name);
  const database = join(root, 'var/lib/dpkg');
  mkdirSync(database, { recursive: true });
  writeFileSync(
    join(database, 'status'),
    `Package: nodejs\nStatus: install ok installed\nArchitecture: all\nVersion: ${nodeVersion}\n` +
      'Maintainer: Node <node@localhost>\nDescription: Node\n',
  );
  // Images of containers exclude manual pages and documents in /etc/dpkg/dpkg.cfg.d.
  return [`--root=${root}`, '--path-include=*'];
}
