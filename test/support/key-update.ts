import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { missing } from './programs.ts';

/** Why key-update-client.c cannot be compiled here, in the form that node:test takes; false when it can. @throws in CI. */
export function noKeyUpdateClient(): string | false {
  const reason = missing('cc') || (existsSync('/usr/include/openssl/ssl.h') ? false : 'no OpenSSL headers');
  if (reason !== false && process.env.CI === 'true') throw new Error(`${reason}, though this is CI`);
  return reason;
}

/** Compiles key-update-client.c. @returns the program, which is in `folder`. @throws Error with the compiler's messages. */
export function compileKeyUpdateClient(folder: string): string {
  const program = join(folder, 'key-update-client');
  const source = fileURLToPath(new URL('key-update-client.c', import.meta.url));
  const { status, stderr } = spawnSync('cc', ['-O2', '-o', program, source, '-lssl', '-lcrypto']);
  if (status !== 0) throw new Error(`cannot compile ${source}: ${stderr}`);
  return program;
}

/**
 * Starts a client that floods a server on 127.0.0.1 with KeyUpdate messages and reads nothing.
 *
 * @param data follows each of them.
 * @returns settles with its exit status when it has ended: 0 when the server has closed the connection.
 */
export async function floodKeyUpdates(t: TestContext, port: number, data: string): Promise<number | null> {
  const folder = mkdtempSync(join(tmpdir(), 'key-update-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const program = compileKeyUpdateClient(folder);
  const client: ChildProcess = spawn(program, [String(port), 'STARTTLS', data], { stdio: 'ignore' });
  t.after(() => client.kill('SIGKILL'));
  return new Promise((resolve) => client.on('exit', resolve));
}
