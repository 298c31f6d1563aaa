/** Links between the documents, and what each folder of examples has. */

import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { test } from 'node:test';
import { ROOT } from '../support/programs.ts';

const EXAMPLES = join(ROOT, 'docs/examples');
const pages = [
  ...['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'].map((name) => join(ROOT, name)),
  ...readdirSync(join(ROOT, 'docs'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.md'))
    .map((entry) => join(entry.parentPath, entry.name)),
];

test('links lead to files that exist', () => {
  const broken = pages.flatMap((page) =>
    [...readFileSync(page, 'utf8').matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)]
      .map(([, target = '']) => target)
      .filter((target) => !/^[a-z]+:/.test(target) && !existsSync(join(dirname(page), target)))
      .map((target) => `${relative(ROOT, page)}: ${target}`),
  );
  assert.deepEqual(broken, []);
});

test('each folder of examples has a README', () => {
  const folders = readdirSync(EXAMPLES);
  assert.ok(folders.length > 10);
  for (const folder of folders) {
    const readme = readFileSync(join(EXAMPLES, folder, 'README.md'), 'utf8');
    assert.match(readme, /^# \S.*\n\n\S/, folder);
  }
});

test('each page is linked from the README, or from a page that is', () => {
  const top = readdirSync(join(ROOT, 'docs')).filter((name) => name.endsWith('.md'));
  const texts = new Map(top.map((name) => [name, readFileSync(join(ROOT, 'docs', name), 'utf8')]));
  const linked = new Set<string>();
  const follow = (text: string): void => {
    for (const name of top) {
      if (linked.has(name) || !text.includes(`${name})`)) continue;
      linked.add(name);
      follow(texts.get(name) ?? '');
    }
  };
  follow(readFileSync(join(ROOT, 'README.md'), 'utf8'));
  assert.deepEqual(
    top.filter((name) => !linked.has(name)),
    [],
  );
});

test('each name in capitals in architecture.md is in the code', () => {
  const code = readdirSync(join(ROOT, 'lib'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.name.endsWith('.ts'))
    .map((entry) => readFileSync(join(entry.parentPath, entry.name), 'utf8'))
    .join('\n');
  const page = readFileSync(join(ROOT, 'docs/architecture.md'), 'utf8');
  const named = Array.from(page.matchAll(/`([A-Z]{2,}(?:_[A-Z]+)*)`/g), ([, name = '']) => name);
  assert.ok(named.length > 20);
  assert.deepEqual(
    [...new Set(named)].filter((name) => !new RegExp(`\\b${name}\\b`).test(code)),
    [],
  );
});
