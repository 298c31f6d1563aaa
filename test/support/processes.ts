import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { DEADLINE } from './within.ts';

/** Whether there is no such process any more; a zombie is still there. */
export function isGone(pid: number): boolean {
  try {
    readFileSync(`/proc/${pid}/stat`);
    return false;
  } catch {
    return true;
  }
}

/** The processes that a process has started, zombies too. */
export function childrenOf(pid: number): number[] {
  const list = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1');
  return list.split(' ').filter(Boolean).map(Number);
}

/** A line of /proc/PID/status without its name, the words apart by one space. */
export function statusOf(pid: number, name: string): string {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  const value = new RegExp(`^${name}:(.*)$`, 'm').exec(status)?.[1];
  if (value === undefined) throw new Error(`no ${name} in /proc/${pid}/status`);
  return value.trim().replaceAll(/\s+/g, ' ');
}

/** What a descriptor of a process leads to, as "socket:[12345]". */
export function targetOf(pid: number, fd: number): string {
  return readlinkSync(`/proc/${pid}/fd/${fd}`);
}

/** The open descriptors of a process, and what each leads to, as `targetOf` gives it. */
export function descriptorsOf(pid: number): ReadonlyMap<number, string> {
  const descriptors = new Map<number, string>();
  for (const fd of readdirSync(`/proc/${pid}/fd`).map(Number)) {
    try {
      descriptors.set(fd, targetOf(pid, fd));
    } catch {
      // Closed since it was listed.
    }
  }
  return descriptors;
}

/** Whether a descriptor of a process is in non-blocking mode. */
export function isNonBlocking(pid: number, fd: number): boolean {
  const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'))?.[1];
  if (flags === undefined) throw new Error(`no flags in /proc/${pid}/fdinfo/${fd}`);
  return (Number.parseInt(flags, 8) & 0o4000) !== 0;
}

/**
 * Waits for a condition that no event announces.
 *
 * @param limit for how long at most, in milliseconds.
 */
export async function until(what: string, condition: () => boolean, limit = DEADLINE): Promise<void> {
  for (const end = Date.now() + limit; Date.now() < end; ) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error(`timed out: ${what}`);
}
