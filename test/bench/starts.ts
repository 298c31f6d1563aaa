/** Measure (g): the CPU time of a start. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ROOT } from '../support/programs.ts';

/** Starts in one sample: bash measures milliseconds, and a start takes some twenty of them. */
export const BATCH = 5;

/** The CPU time of the starts of one program. */
export interface StartTimes {
  readonly name: string;
  /** In milliseconds, one for each pair; none when it is not built. */
  readonly times: readonly number[];
}

/**
 * Measures the starts of our programs beside `node` with an empty file, which is the first of what it
 * gives. Each figure is the CPU time, user and system, of whole processes, as bash accounts for its children.
 *
 * @param pairs how often each is measured, all in turn.
 * @param progress is told how many pairs are done.
 */
export function measureStarts(pairs: number, progress: (done: number) => void): StartTimes[] {
  const folder = mkdtempSync(join(tmpdir(), 'bench-'));
  try {
    const subjects = listSubjects(folder).map(([name, command]) => ({
      name,
      command,
      times: [] as number[],
    }));
    for (let pair = 1; pair <= pairs; pair++) {
      for (const { command, times } of subjects) if (isBuilt(command)) times.push(measure(command));
      progress(pair);
    }
    return subjects.map(({ name, times }) => ({ name, times }));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function listSubjects(folder: string): (readonly [name: string, command: readonly string[]])[] {
  const write = (name: string, text: string): string => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };
  const load = (...modules: string[]): string =>
    `${modules.map((name) => `require('node:${name}');`).join(' ')} process.exit();\n`;
  const start = (name: string, ...args: string[]): string[] => [
    process.execPath,
    join(ROOT, 'dist/bin', name),
    ...args,
  ];
  return [
    ['node, empty file', [process.execPath, write('empty.cjs', '')]],
    ['node, loading child_process', [process.execPath, write('spawn.cjs', load('child_process'))]],
    [
      'node, loading child_process and tls',
      [process.execPath, write('tls.cjs', load('child_process', 'tls'))],
    ],
    // Loaded, options read, environment looked at, and there found that no UCSPI-TLS server is above.
    ['smtpd-starttls-proxy-io, up to its environment', start('smtpd-starttls-proxy-io', 'true')],
    ['smtpd-starttls-proxy-io --version', start('smtpd-starttls-proxy-io', '--version')],
    // The same, and there found that there is no certificate.
    ['smtpd-starttls-proxy, up to its environment', start('smtpd-starttls-proxy', 'true')],
    ['smtpd-starttls-proxy --version', start('smtpd-starttls-proxy', '--version')],
    ['smtpd-starttls-server --version', start('smtpd-starttls-server', '--version')],
    ['ucspi-tlsd --version', start('ucspi-tlsd', '--version')],
    ['smtpd-maildir --version', start('smtpd-maildir', '--version')],
  ];
}

function isBuilt([, file]: readonly string[]): boolean {
  return file !== undefined && existsSync(file);
}

/** CPU time of one start, in milliseconds. */
function measure(command: readonly string[]): number {
  const script = `TIMEFORMAT='%3U %3S'; time for ((i = 0; i < ${BATCH}; i++)); do "$@" >/dev/null 2>&1; done`;
  const { NODE_EXTRA_CA_CERTS, CERTFILE, KEYFILE, ...env } = process.env;
  const { stderr } = spawnSync('bash', ['-c', script, 'bash', ...command], { env, encoding: 'utf8' });
  const [user, system] = stderr.trim().split(' ').map(Number);
  if (user === undefined || system === undefined || Number.isNaN(user))
    throw new Error(`bash printed ${stderr}`);
  return ((user + system) * 1000) / BATCH;
}
