import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type Served, watch } from './chain.ts';
import { until } from './processes.ts';
import { familyOf, isDead, tryKill } from './server.ts';

/** A folder for a remote server, whose processes run as several users. It is removed by `startDaemon`. */
export function daemonFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'daemon-'));
  chmodSync(folder, 0o755);
  return folder;
}

/**
 * Starts a server that stays in the foreground and has processes of its own. At the end of the test all of them are
 * ended, and then the folder is removed, to which they write until then.
 */
export function startDaemon(
  t: TestContext,
  folder: string,
  [file = '', ...args]: readonly string[],
  environment: NodeJS.ProcessEnv = {},
): Omit<Served, 'pid'> {
  const child = spawn(file, args, {
    env: { PATH: process.env.PATH, ...environment },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const daemon = watch(child);
  t.after(async () => {
    const family = familyOf(child.pid ?? 0);
    daemon.kill('SIGTERM');
    await daemon.ended;
    // Dovecot's processes serve their clients further, Postfix for example.
    for (const one of family) tryKill(one);
    await until(`all processes of ${file} have ended`, () => family.every(isDead));
    rmSync(folder, { recursive: true, force: true });
  });
  return daemon;
}
