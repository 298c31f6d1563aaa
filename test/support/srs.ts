/** Runs smtpd-srs-io around smtpd-script, with the test as its client. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fixture } from './programs.ts';
import { type Relay, startOurs } from './relay.ts';

/** A running smtpd-srs-io. */
export interface SrsSession extends Relay {
  /** What smtpd-script has received so far. */
  received(): string;
}

/** How smtpd-srs-io is started. */
export interface SrsSessionOptions {
  /** Its options beside the keys and domains. */
  readonly options?: readonly string[];
  /** The file of keys, of mode 600; one key by default. */
  readonly keys?: string;
  /** Options of smtpd-script. */
  readonly smtpd?: readonly string[];
  /** Another smtpd. */
  readonly command?: readonly string[];
}

/** Writes a file of keys into a folder of its own, which is removed after the test. @returns its path. */
export function writeKeys(t: TestContext, keys: string, mode = 0o600): string {
  const folder = mkdtempSync(join(tmpdir(), 'srs-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'keys');
  writeFileSync(path, keys, { mode });
  return path;
}

/** Starts it for the domains ours.example and second.example, until the test ends. */
export function startSrs(
  t: TestContext,
  { options = [], keys = 'tops3cr3t\n', smtpd = [], command }: SrsSessionOptions = {},
): SrsSession {
  const keysFile = writeKeys(t, keys);
  const record = `${keysFile}.record`;
  writeFileSync(record, '');
  const words = ['-k', keysFile, '-d', 'ours.example,Second.example', ...options];
  const script = fixture('smtpd-script', `--record=${record}`, ...smtpd);
  const relay = startOurs(t, 'smtpd-srs-io', [...words, '--', ...(command ?? script)]);
  return { ...relay, received: () => readFileSync(record, 'latin1') };
}
