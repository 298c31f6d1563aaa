/** The imports between the files and folders of lib and bin: docs/architecture.md, "Imports go down only". */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, it } from 'node:test';

/** The folders from top to bottom. A folder imports only from those on lines below its own, and from itself. */
const LEVELS: readonly (readonly string[])[] = [
  ['bin'],
  ['lib/server', 'lib/proxy', 'lib/chain', 'lib/relay', 'lib/srs-io', 'lib/maildir'],
  ['lib/session'],
  ['lib/smtpd'],
  ['lib/tls'],
  ['lib/net', 'lib/ucspi'],
  ['lib/stream'],
  ['lib/smtp', 'lib/srs', 'lib/program'],
];

/** Folders that may import from these folders only. */
const RESTRICTED: Readonly<Record<string, readonly string[]>> = {
  'lib/maildir': ['lib/maildir', 'lib/stream', 'lib/smtp', 'lib/program'],
  'lib/maildir/protocol': ['lib/maildir/protocol', 'lib/smtp'],
  'lib/maildir/store': ['lib/maildir/store', 'lib/program'],
};

/** Folders without I/O, and the modules of Node that each may import. */
const NO_IO: Readonly<Record<string, readonly string[]>> = {
  'lib/smtp': ['node:buffer'],
  'lib/maildir/protocol': ['node:buffer'],
  'lib/srs': ['node:buffer', 'node:crypto'],
};

/** Every form of import, of types too, and `export ... from`; not `Buffer.from('')`. The group is the module. */
const IMPORT = /\b(?:from\s+|import\s*\(?\s*)'([^']+)'/g;

/** One import: a file, and the file or the module of Node that it imports. */
type Import = readonly [file: string, imported: string];

const FILES = ['bin', 'lib'].flatMap((folder) =>
  readdirSync(folder, { encoding: 'utf8', recursive: true })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(folder, name)),
);
const IMPORTS: readonly Import[] = FILES.flatMap(importsOf);

function importsOf(file: string): Import[] {
  return [...readFileSync(file, 'utf8').matchAll(IMPORT)].map(([, name = '']) => [
    file,
    name.startsWith('.') ? join(dirname(file), name) : name,
  ]);
}

function isIn(file: string, folder: string): boolean {
  return file.startsWith(`${folder}/`);
}

/** The index in LEVELS; -1 for a module of Node, or a folder that is not listed. */
function levelOf(file: string): number {
  return LEVELS.findIndex((folders) => folders.some((folder) => isIn(file, folder)));
}

function goesDown(file: string, imported: string): boolean {
  const isSameFolder = LEVELS.flat().some((folder) => isIn(file, folder) && isIn(imported, folder));
  return isSameFolder || levelOf(file) < levelOf(imported);
}

/** A list of files each of which imports the next, and the last the first; undefined if there is none. */
function findCircle(imports: readonly Import[]): readonly string[] | undefined {
  const finished = new Set<string>();

  function visit(file: string, path: readonly string[]): readonly string[] | undefined {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
    if (finished.has(file)) return undefined;
    for (const [from, imported] of imports) {
      const circle = from === file ? visit(imported, [...path, file]) : undefined;
      if (circle !== undefined) return circle;
    }
    finished.add(file);
    return undefined;
  }

  for (const [file] of imports) {
    const circle = visit(file, []);
    if (circle !== undefined) return circle;
  }
  return undefined;
}

function format(imports: readonly Import[]): readonly string[] {
  return imports.map(([file, imported]) => `${file} imports ${imported}`);
}

const OWN_IMPORTS = IMPORTS.filter(([, imported]) => !imported.startsWith('node:'));

describe('the imports of lib and bin', () => {
  it('are found', () => {
    assert.ok(OWN_IMPORTS.length > FILES.length);
    assert.deepEqual(
      format(OWN_IMPORTS.filter(([, imported]) => !FILES.includes(imported))),
      [],
      'neither a file nor a module of Node',
    );
  });

  it('have a level for every folder', () => {
    assert.deepEqual(
      FILES.filter((file) => levelOf(file) === -1),
      [],
    );
  });

  it('form no circle, type-only imports included', () => {
    assert.equal(findCircle(OWN_IMPORTS), undefined);
  });

  it('go down from one folder to another', () => {
    assert.deepEqual(format(OWN_IMPORTS.filter(([file, imported]) => !goesDown(file, imported))), []);
  });

  for (const [folder, allowed] of Object.entries(RESTRICTED)) {
    it(`of ${folder} stay within ${allowed.join(', ')}`, () => {
      const all = OWN_IMPORTS.filter(([file]) => isIn(file, folder));
      assert.deepEqual(format(all.filter(([, imported]) => !allowed.some((one) => isIn(imported, one)))), []);
    });
  }

  for (const [folder, allowed] of Object.entries(NO_IO)) {
    it(`of ${folder} name no module of Node but ${allowed.join(', ')}`, () => {
      const all = IMPORTS.filter(([file, imported]) => isIn(file, folder) && imported.startsWith('node:'));
      assert.deepEqual(format(all.filter(([, imported]) => !allowed.includes(imported))), []);
    });
  }
});

describe('the search for circles', () => {
  it('finds a circle and names its files in order', () => {
    const imports: Import[] = [
      ['a', 'b'],
      ['b', 'c'],
      ['c', 'd'],
      ['d', 'b'],
    ];
    assert.deepEqual(findCircle(imports), ['b', 'c', 'd', 'b']);
  });

  it('allows two ways to one file', () => {
    const imports: Import[] = [
      ['a', 'b'],
      ['a', 'c'],
      ['b', 'd'],
      ['c', 'd'],
    ];
    assert.equal(findCircle(imports), undefined);
  });
});
