/** The examples in docs/examples: their files, and the commands in their READMEs. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { ROOT } from './programs.ts';
import { type RunningServer, type ServerSetup, startServer } from './server.ts';

/** A file in docs/examples. */
export function readExample(name: string): string {
  return readFileSync(join(ROOT, 'docs/examples', name), 'utf8');
}

/** The indented line of a README that begins with this. */
export function lineIn(example: string, start: string): string {
  const lines = readExample(`${example}/README.md`).split('\n');
  const found = lines.filter((line) => line.startsWith(`    ${start}`));
  assert.equal(found.length, 1, `lines that begin with ${start} in the README of ${example}`);
  return (found[0] ?? '').trim();
}

/** Replaces parts of a text, each of which must be there. */
export function replace(text: string, parts: Readonly<Record<string, string>>): string {
  return Object.entries(parts).reduce((before, [part, replacement]) => {
    assert.ok(before.includes(part), `no ${part} in ${before}`);
    return before.replaceAll(part, replacement);
  }, text);
}

/** Starts the server by a command of an example, on a port of its own. */
export async function startByCommand(
  t: TestContext,
  command: string,
  setup: ServerSetup,
  ...more: string[]
): Promise<RunningServer> {
  const words = command.split(/[ \\\n]+/);
  assert.match(words[0] ?? '', /^(?:\/usr\/local\/bin\/)?smtpd-starttls-server$/);
  assert.match(words.slice(-2).join(' '), /^(?:0 25|127\.0\.0\.1 \d+)$/);
  const server = await startServer([...words.slice(1, -2), ...more], [], setup);
  t.after(server.close);
  return server;
}
