import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { watch } from './chain.ts';
import { missing } from './programs.ts';
import { closedPort } from './tcp.ts';

const SSHD = '/usr/sbin/sshd';

/** The reason to skip a test that needs sshd; see `missing`. */
export function noSshd(): string | false {
  if (!existsSync(SSHD)) return missing('sshd');
  return missing('ssh', 'ssh-keygen');
}

/** A running sshd, and a client that may log in. */
export interface Sshd {
  readonly port: number;
  /** Words for ssh, which make it use the client's key and known hosts, and nothing of the user. */
  readonly words: readonly string[];
  /** Replaces what the client knows of host keys; by default, the key of this sshd. */
  knowHosts(lines: string): void;
  /** What it has logged. */
  stderr(): string;
}

/**
 * Starts sshd on a port of its own, with keys of its own, until the end of the test.
 *
 * @param folder for all its files.
 * @param forcedCommand the command that the key of the client may run; undefined for any.
 */
export async function startSshd(t: TestContext, folder: string, forcedCommand?: string): Promise<Sshd> {
  const file = (name: string): string => join(folder, name);
  for (const name of ['host-key', 'client-key']) {
    spawnSync('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', file(name)]);
    chmodSync(file(name), 0o600);
  }
  const port = await closedPort();
  const restriction = forcedCommand === undefined ? '' : `restrict,command="${forcedCommand}" `;
  writeFileSync(file('authorized_keys'), restriction + readFileSync(file('client-key.pub'), 'latin1'));
  const knowHosts = (lines: string): void => writeFileSync(file('known_hosts'), lines);
  knowHosts(`[127.0.0.1]:${port} ${readFileSync(file('host-key.pub'), 'latin1')}`);
  writeFileSync(
    file('sshd_config'),
    `ListenAddress 127.0.0.1
Port ${port}
HostKey ${file('host-key')}
AuthorizedKeysFile ${file('authorized_keys')}
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin yes
`,
  );
  writeFileSync(
    file('ssh_config'),
    `IdentityFile ${file('client-key')}
IdentitiesOnly yes
UserKnownHostsFile ${file('known_hosts')}
GlobalKnownHostsFile none
User ${userInfo().username}
`,
  );
  // sshd requires it of root.
  if (process.getuid?.() === 0) mkdirSync('/run/sshd', { recursive: true });
  const child = spawn(SSHD, ['-D', '-e', '-f', file('sshd_config')], { stdio: ['ignore', 'ignore', 'pipe'] });
  const sshd = watch(child);
  t.after(async () => {
    child.kill('SIGTERM');
    await sshd.ended;
  });
  await sshd.logs(/Server listening on 127\.0\.0\.1/);
  return { port, words: ['-F', file('ssh_config')], knowHosts, stderr: sshd.stderr };
}
