/** How man and mandoc show the man pages on a terminal of 80 columns. */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { missing, ROOT } from '../support/programs.ts';
import { type Outcome, run } from '../support/real.ts';

const PAGES = readdirSync(join(ROOT, 'docs/man'))
  .filter((name) => name.endsWith('.md'))
  .map((name) => name.replace(/\.md$/, ''));

const built = (page: string): string => join(ROOT, 'dist/man', page);

function man(page: string): Promise<Outcome> {
  const environment = { MANWIDTH: '80', MANROFFOPT: '', LC_ALL: 'C.UTF-8' };
  return run(['man', '--warnings', '-E', 'UTF-8', '-l', built(page)], { environment });
}

assert.ok(PAGES.length > 7);
for (const page of PAGES) {
  describe(page, () => {
    const source = readFileSync(join(ROOT, 'docs/man', `${page}.md`), 'utf8');

    test('man has no warning', { skip: missing('man') }, async () => {
      const { status, stderr } = await man(page);
      assert.deepEqual([status, stderr], [0, '']);
    });

    test('mandoc has no warning', { skip: missing('mandoc') }, async () => {
      const { status, stdout, stderr } = await run(['mandoc', '-T', 'lint', '-W', 'warning', built(page)]);
      assert.deepEqual([status, stdout, stderr], [0, '', '']);
    });

    test('tables break no name, and no line but those of a log and one command is too long', {
      skip: missing('man'),
    }, async () => {
      const { stdout } = await man(page);
      const lines = Buffer.from(stdout, 'latin1').toString('utf8').split('\n');
      const cells = source.split('\n').filter((line) => line.startsWith('| '));
      const names = cells.flatMap((line) => [...line.matchAll(/`([^` ]+)`/g)].map(([, name = '']) => name));
      const broken = names.filter((name) => !lines.some((line) => line.includes(name)));
      assert.deepEqual(broken, []);
      const long = lines.filter((line) => [...line].length > 80 && !/event=|openssl x509/.test(line));
      assert.deepEqual(long, []);
    });

    test('no inline code has a double quote, which marked-man escapes', () => {
      const code = source.replaceAll(/^ {4}.*$/gm, '').match(/`[^`\n]*`/g) ?? [];
      assert.deepEqual(
        code.filter((text) => text.includes('"')),
        [],
      );
    });
  });
}
