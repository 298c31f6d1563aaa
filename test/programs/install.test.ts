import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { missing, ours, ROOT } from '../support/programs.ts';

// The installed and packed files, and the man pages.

const PROGRAMS = [
  'smtp-relay-io',
  'smtpd-maildir',
  'smtpd-srs-io',
  'smtpd-starttls-proxy',
  'smtpd-starttls-proxy-io',
  'smtpd-starttls-server',
  'ucspi-tlsd',
];
const folder = mkdtempSync(join(tmpdir(), 'install-'));
after(() => rmSync(folder, { recursive: true }));

const PAGES = ['smtp-routes.5', ...PROGRAMS.map((name) => `${name}.8`)];

function run(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: ROOT, encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  return stdout;
}

function make(target: string): void {
  // MAKEFLAGS of the make that runs the tests must not reach this one.
  run('env', '-u', 'MAKEFLAGS', '-u', 'MAKELEVEL', 'make', target, `DESTDIR=${folder}`, 'PREFIX=/opt/mail');
}

function listFiles(path: string): string[] {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => entry.name)
    .sort();
}

test('make install installs programs that run, and make uninstall leaves nothing', () => {
  make('install');
  for (const name of PROGRAMS) {
    assert.match(
      run(join(folder, 'opt/mail/bin', name), '--version'),
      new RegExp(`^${name} \\d+\\.\\d+\\.\\d+\n$`),
    );
  }
  assert.deepEqual(listFiles(join(folder, 'opt/mail/share')), [...PAGES].sort());
  make('uninstall');
  assert.deepEqual(listFiles(folder), []);
});

test('npm pack includes the programs, their man pages and the licence, and nothing else', () => {
  const [pack] = JSON.parse(run('npm', 'pack', '--dry-run', '--json', '--ignore-scripts')) as [
    { files: { path: string }[] },
  ];
  assert.deepEqual(
    pack.files.map(({ path }) => path).sort(),
    [
      'CHANGELOG.md',
      'LICENSE',
      'README.md',
      'dist/package.json',
      'package.json',
      ...PROGRAMS.map((name) => `dist/bin/${name}`),
      ...PAGES.map((page) => `dist/man/${page}`),
    ].sort(),
  );
});

describe('each program is one file with a shebang and the licence', () => {
  for (const name of PROGRAMS) {
    test(name, () => {
      const text = readFileSync(ours(name), 'utf8');
      assert.match(text, /^#!\/usr\/bin\/env node\n\/\*\nISC License\n/);
      const loaded = [...text.matchAll(/\brequire\("([^"]*)"\)/g)].map(([, module]) => module ?? '');
      assert.deepEqual(
        loaded.filter((module) => !module.startsWith('node:')),
        [],
      );
    });
  }
});

describe('each man page has its sections in order, and all options of --help and no others', () => {
  for (const name of PROGRAMS) {
    test(name, () => {
      const page = readFileSync(join(ROOT, 'docs/man', `${name}.8.md`), 'utf8');
      const sections = [...page.matchAll(/^## (.*)$/gm)].map(([, title]) => title);
      const forSmtpd = name.startsWith('smtpd-starttls-') ? ['What smtpd must know'] : [];
      assert.deepEqual(sections, [
        ...['Interface', 'Exit codes', 'Environment variables'],
        ...[...forSmtpd, 'Options', 'Notes'],
      ]);
      const [, described = ''] = /^## Options$(.*?)^## /ms.exec(page) ?? [];
      const inPage = [...described.matchAll(/^\* (.*?):$|^\* (.*?): /gms)].flatMap(([line]) =>
        optionsIn(line),
      );
      const help = run(ours(name), '--help');
      const inHelp = [...help.matchAll(/^ {2,6}(-.*?)(?: {2}|$)/gm)].flatMap(([line]) => optionsIn(line));
      assert.ok(inHelp.length > 2);
      assert.deepEqual([...new Set(inPage)].sort(), [...new Set(inHelp)].sort());
    });
  }
});

function optionsIn(text: string): string[] {
  return text.match(/(?<![\w-])--?[A-Za-z][a-z-]*/g) ?? [];
}

test('mandoc finds no error in the man pages', { skip: missing('mandoc') }, () => {
  for (const page of PAGES) run('mandoc', '-T', 'lint', '-W', 'error', join(ROOT, 'dist/man', page));
});
