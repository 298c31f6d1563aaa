import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The top of the checkout. */
export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/**
 * Where one of our programs is, as `make build` leaves it.
 *
 * @throws when it was not built.
 */
export function ours(name: string): string {
  const path = join(ROOT, 'dist/bin', name);
  if (!existsSync(path)) throw new Error(`${path} is missing: run "make build" first`);
  return path;
}

/**
 * A command that runs a file of test/support/programs, named without its stopping.
 *
 * @throws when it was not built.
 */
export function fixture(name: string, ...args: string[]): string[] {
  const path = join(ROOT, 'dist/test', `${name}.cjs`);
  if (!existsSync(path)) throw new Error(`${path} is missing: run "make test"`);
  return [process.execPath, path, ...args];
}

/**
 * Whether programs of others are on PATH. In CI they have to be.
 *
 * @returns false when all are there; else the reason to skip, in the form that node:test takes.
 * @throws in CI, when one is missing.
 */
export function missing(...names: string[]): string | false {
  const absent = names.filter((name) => spawnSync('sh', ['-c', `command -v ${name}`]).status !== 0);
  return absent.length === 0 ? false : skipUnlessInCi(absent.join(', '));
}

/** The same for what a command shows by its status, such as a module of an interpreter. */
export function failing(file: string, ...words: readonly string[]): string | false {
  return spawnSync(file, words).status === 0 ? false : skipUnlessInCi([file, ...words].join(' '));
}

function skipUnlessInCi(what: string): string {
  if (process.env.CI === 'true') throw new Error(`not installed, though this is CI: ${what}`);
  return `not installed: ${what}`;
}
