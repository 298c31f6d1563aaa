import { readdirSync, readFileSync } from 'node:fs';

/** A process, as /proc shows it. */
export interface Process {
  readonly pid: number;
  /** Its words; none for a zombie. */
  readonly command: readonly string[];
}

/**
 * The living processes of a server: its session, and its descendants in other sessions.
 *
 * @param leader the first process of the session.
 */
export function processesOf(leader: number): Process[] {
  const all = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap(readStat);
  const members = new Set([leader]);
  // A child has a higher number than its parent but where numbers have begun anew: until nothing is added.
  for (let before = 0; before !== members.size; ) {
    before = members.size;
    for (const { pid, parent, session } of all) {
      if (session === leader || members.has(parent)) members.add(pid);
    }
  }
  return all
    .filter(({ pid, state }) => members.has(pid) && state !== 'Z' && state !== 'X')
    .map(({ pid }) => ({ pid, command: readCommand(pid) }));
}

/** Clock ticks a second in /proc, which Linux has fixed for all that can be seen from outside the kernel. */
const TICKS = 100;

/**
 * The CPU time that a server and those of its children that it has waited for have used, in seconds.
 *
 * @param leader the first process of the server.
 */
export function cpuTimeOf(leader: number): number {
  return processesOf(leader).reduce((sum, { pid }) => sum + (readStat(`${pid}`)[0]?.ticks ?? 0), 0) / TICKS;
}

interface Stat {
  readonly pid: number;
  readonly state: string;
  readonly parent: number;
  readonly session: number;
  /** CPU time, user and system, its own and that of ended children. */
  readonly ticks: number;
}

/** A process may have gone since it was listed: no Stat then. */
function readStat(name: string): Stat[] {
  const text = readProc(`${name}/stat`);
  // The second field is a name in brackets in which anything may stand.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const [state = '', parent, , session] = fields;
  const ticks = fields.slice(11, 15).reduce((sum, time) => sum + Number(time), 0);
  return text === ''
    ? []
    : [{ pid: Number(name), state, parent: Number(parent), session: Number(session), ticks }];
}

function readCommand(pid: number): string[] {
  return readProc(`${pid}/cmdline`).split('\0').slice(0, -1);
}

/** A file of /proc; empty when its process has gone. */
export function readProc(path: string): string {
  try {
    return readFileSync(`/proc/${path}`, 'latin1');
  } catch {
    return '';
  }
}
