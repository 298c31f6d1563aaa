/** Files that are watched for changes: lib/program/watch-files.ts. Changes of keys are in server/secrets.test.ts. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { watchFiles } from '../../../lib/program/watch-files.ts';
import { stopIntervals } from '../../support/intervals.ts';

/** Files in a folder of their own, `one` and `two` at first, which are watched and checked when the test says so. */
function openScene(t: TestContext) {
  const folder = mkdtempSync(join(tmpdir(), 'watch-files-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const [one, two] = [join(folder, 'one'), join(folder, 'two')];
  for (const path of [one, two]) writeFileSync(path, 'first');
  const intervals = stopIntervals(t);
  let count = 0;
  const watch = watchFiles({
    paths: () => [folder, ...readdirSync(folder).map((name) => join(folder, name))],
    changed: () => {
      count += 1;
    },
  });
  t.after(watch.stop);
  return { folder, one, two, watch, ...intervals, changes: () => count };
}

describe('watchFiles', () => {
  it('reports nothing while nothing changes', (t) => {
    const { watch, pass, changes } = openScene(t);
    watch.start();
    pass(10);
    assert.equal(changes(), 0);
  });

  it('reports a change once, at the second check that finds it', (t) => {
    const { one, watch, pass, changes } = openScene(t);
    watch.start();
    writeFileSync(one, 'second');
    pass(1);
    assert.equal(changes(), 0);
    pass(1);
    assert.equal(changes(), 1);
    pass(10);
    assert.equal(changes(), 1);
  });

  it('waits while a file is being written, and while files are written in turn', (t) => {
    const { one, two, watch, pass, changes } = openScene(t);
    watch.start();
    for (let part = 0; part < 5; part++) {
      appendFileSync(part % 2 === 0 ? one : two, 'more');
      pass(1);
    }
    assert.equal(changes(), 0);
    pass(1);
    assert.equal(changes(), 1);
  });

  for (const [what, change] of [
    ['disappears', (path: string) => rmSync(path)],
    ['is replaced by one of the same size', (path: string) => renameSync(path.replace(/one$/, 'two'), path)],
    ['is added to a folder', (path: string) => writeFileSync(`${path}-more`, '')],
  ] as const) {
    it(`reports a file that ${what}`, (t) => {
      const { one, watch, pass, changes } = openScene(t);
      watch.start();
      change(one);
      pass(2);
      assert.equal(changes(), 1);
    });
  }

  it('reports when the paths cannot be listed any more, and when they can again', (t) => {
    const { folder, watch, pass, changes } = openScene(t);
    watch.start();
    renameSync(folder, `${folder}~`);
    pass(5);
    assert.equal(changes(), 1);
    renameSync(`${folder}~`, folder);
    pass(5);
    assert.equal(changes(), 2);
  });

  it('reports a change before the start, but not one that the caller has read', (t) => {
    const { one, watch, pass, changes } = openScene(t);
    writeFileSync(one, 'second');
    watch.start();
    pass(5);
    assert.equal(changes(), 1);
    writeFileSync(one, 'the third');
    watch.markRead();
    pass(5);
    assert.equal(changes(), 1);
  });

  it('reports once more after `retry`, when the files are settled', (t) => {
    const { one, watch, pass, changes } = openScene(t);
    watch.start();
    watch.retry();
    writeFileSync(one, 'second');
    pass(1);
    assert.equal(changes(), 0);
    pass(5);
    assert.equal(changes(), 1);
    watch.retry();
    pass(5);
    assert.equal(changes(), 2);
    watch.retry();
    watch.markRead();
    pass(5);
    assert.equal(changes(), 2);
  });

  it('has one timer, however often it is started, and none once it is stopped', (t) => {
    const { one, watch, pass, running, changes } = openScene(t);
    assert.equal(running(), 0);
    watch.start();
    watch.start();
    assert.equal(running(), 1);
    watch.stop();
    assert.equal(running(), 0);
    writeFileSync(one, 'second');
    pass(5);
    assert.equal(changes(), 0);
  });

  it('does not keep a process alive', async () => {
    const module = JSON.stringify(new URL('../../../lib/program/watch-files.ts', import.meta.url).href);
    const program = `
      import { watchFiles } from ${module};
      watchFiles({ paths: () => ['/'], changed() {} }).start();
    `;
    const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', program], {
      stdio: 'ignore',
      timeout: 10_000,
    });
    assert.deepEqual(await once(child, 'exit'), [0, null]);
  });
});
