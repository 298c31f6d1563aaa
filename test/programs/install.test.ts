import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { after, describe, test } from 'node:test';
import { ours, ROOT } from '../support/programs.ts';

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

const EXAMPLES = join(ROOT, 'docs/examples');

/** The parts of package.json that npm installs by. */
interface Manifest {
  readonly bin: Readonly<Record<string, string>>;
  readonly man: readonly string[];
}

function run(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd: ROOT, encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  return stdout;
}

function make(target: string, ...variables: readonly string[]): string {
  // MAKEFLAGS of the make that runs the tests must not reach this one.
  const words = [target, `DESTDIR=${folder}`, 'PREFIX=/opt/mail', ...variables];
  return run('env', '-u', 'MAKEFLAGS', '-u', 'MAKELEVEL', 'make', ...words);
}

/** The paths of all files below a folder, relative to it. */
function listFiles(path: string): string[] {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(path, join(entry.parentPath, entry.name)))
    .sort();
}

/** The files below a folder that can be executed. */
function listExecutables(path: string): string[] {
  return listFiles(path).filter((name) => (statSync(join(path, name)).mode & 0o111) !== 0);
}

/** The documents and examples that a man page names. */
function pathsIn(page: string): string[] {
  const text = readFileSync(page, 'utf8').replaceAll('\\', '');
  return Array.from(text.matchAll(/(?:\/opt\/mail\/share\/)?docs?\/[\w./-]*\w/g), ([path]) => path);
}

test('make install installs programs that run, man pages, documents and examples; make uninstall removes them', () => {
  make('install');
  for (const name of PROGRAMS) {
    assert.match(
      run(join(folder, 'opt/mail/bin', name), '--version'),
      new RegExp(`^${name} \\d+\\.\\d+\\.\\d+\n$`),
    );
  }
  const share = join(folder, 'opt/mail/share');
  assert.deepEqual(listFiles(join(share, 'man')), PAGES.map((page) => `man${page.at(-1)}/${page}`).sort());
  const doc = join(share, 'doc/smtpd-starttls-proxy');
  const documents = listFiles(join(ROOT, 'docs')).filter((name) => /^[^/]*\.(md|svg)$/.test(name));
  assert.deepEqual(
    readdirSync(doc).sort(),
    [...documents, 'README.md', 'CHANGELOG.md', 'examples', 'man']
      .filter((name) => name !== 'architecture.md')
      .sort(),
  );
  assert.deepEqual(listFiles(join(doc, 'examples')), listFiles(EXAMPLES));
  assert.deepEqual(listExecutables(join(doc, 'examples')), listExecutables(EXAMPLES));
  const links = [...readFileSync(join(doc, 'README.md'), 'utf8').matchAll(/\]\(([^)#:]+)\)/g)];
  assert.deepEqual(
    links.flatMap(([, path = '']) => (existsSync(join(doc, path)) ? [] : [path])),
    ['test/dialogue', 'CONTRIBUTING.md', 'architecture.md'],
    'only links for those who work on the source lead nowhere',
  );
  const named = PAGES.flatMap((page) => pathsIn(join(share, `man/man${page.at(-1)}`, page)));
  assert.ok(named.includes('/opt/mail/share/doc/smtpd-starttls-proxy/examples/srs-postfix'));
  for (const path of named) assert.ok(existsSync(join(folder, path)), path);
  const unit = readFileSync(join(doc, 'examples/systemd/smtpd-starttls-server.service'), 'utf8');
  assert.match(
    unit,
    /^ExecStart=\/opt\/mail\/bin\/smtpd-starttls-server .* \/opt\/mail\/bin\/smtpd-maildir /m,
  );
  // It finds the programs on PATH, and one of them refuses the port.
  const demo = spawnSync(join(doc, 'examples/demo/run'), [join(folder, 'demo'), '65536'], {
    env: { PATH: `${join(folder, 'opt/mail/bin')}:${process.env.PATH}` },
    encoding: 'utf8',
  });
  assert.equal(demo.status, 100, demo.stderr);
  rmSync(join(folder, 'demo'), { recursive: true });
  make('uninstall');
  assert.deepEqual(listFiles(folder), []);
});

test('make install warns root of a node that another user can replace', {
  skip: process.getuid?.() !== 0 && 'only root can give a file to another user',
}, () => {
  const node = join(folder, 'node');
  writeFileSync(node, '', { mode: 0o755 });
  assert.doesNotMatch(make('install', `NODE=${node}`), /Warning/);
  chownSync(node, 65_534, 65_534);
  assert.match(
    make('install', `NODE=${node}`),
    /\nWarning: user 65534 can replace that node, which services run as root\.\n$/,
  );
  assert.doesNotMatch(make('install', 'NODE=/usr/bin/env node'), /Warning/);
  make('uninstall');
  rmSync(node);
});

test('make install installs documents in DOCDIR, and make uninstall leaves the other files there', () => {
  make('install', 'DOCDIR=/doc');
  assert.ok(existsSync(join(folder, 'doc/examples/systemd/smtpd-starttls.socket')));
  writeFileSync(join(folder, 'doc/notes'), '');
  make('uninstall', 'DOCDIR=/doc');
  assert.deepEqual(listFiles(folder), ['doc/notes']);
  rmSync(join(folder, 'doc'), { recursive: true });
});

test('where services have no node on PATH, the installed programs run with the node of the build', () => {
  const path = join(folder, 'empty');
  mkdirSync(path);
  make('install', `SERVICE_PATH=${path}`);
  const program = join(folder, 'opt/mail/bin/smtpd-maildir');
  const { status, stderr } = spawnSync(program, ['--version'], { env: { PATH: path }, encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  make('install', 'NODE=/opt/node/bin/node');
  assert.match(readFileSync(program, 'utf8'), /^#!\/opt\/node\/bin\/node\n/);
  make('uninstall');
});

test('npm pack includes the programs, their man pages, the documents and the licence, and nothing else', () => {
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
      ...listFiles(join(ROOT, 'docs')).map((name) => `docs/${name}`),
    ].sort(),
  );
});

test('package.json lists all programs and man pages', () => {
  const { bin, man } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Manifest;
  assert.deepEqual(bin, Object.fromEntries(PROGRAMS.map((name) => [name, `dist/bin/${name}`])));
  assert.deepEqual([...man].sort(), PAGES.map((page) => `dist/man/${page}`).sort());
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
        ...['Synopsis', 'Description', 'Options', 'Exit status', 'Environment', 'Files'],
        ...[...forSmtpd, 'Notes', 'Examples', 'See also'],
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
