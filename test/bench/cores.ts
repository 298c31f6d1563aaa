import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** Which core does what, as numbers that taskset takes. */
export interface Cores {
  readonly server: string;
  readonly load: string;
  /** All that this process may use. */
  readonly all: string;
  readonly count: number;
}

/**
 * Chooses the cores: server and load have one each where there are two. This process goes to the load's.
 *
 * @throws Error when taskset (util-linux) is not installed.
 */
export function chooseCores(): Cores {
  const status = readFileSync('/proc/self/status', 'latin1');
  const all = /^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1] ?? '0';
  const list = all.split(',').flatMap(expand);
  const [server = 0, load = server] = list;
  execFileSync('taskset', ['-a', '-cp', String(load), String(process.pid)], { stdio: 'ignore' });
  return { server: String(server), load: String(load), all, count: list.length };
}

/** The numbers that "3" or "0-7" stands for. */
function expand(range: string): number[] {
  const [first = 0, last = first] = range.split('-').map(Number);
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
