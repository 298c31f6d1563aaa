import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { childrenOf, statusOf, until } from '../support/processes.ts';
import { fixture } from '../support/programs.ts';
import type { RunningServer } from '../support/server.ts';

/** What the processes of a server hold at one moment. */
export interface Vitals {
  /** Open descriptors. */
  readonly descriptors: number;
  /** Processes below them that are not workers, and those of them that have exited and were not reaped. */
  readonly children: number;
  readonly zombies: number;
  /** Resident memory and, after a collection, the heap of V8 and the buffers outside of it, in KiB. */
  readonly resident: number;
  readonly heap: number;
  readonly external: number;
  /** What keeps the event loops alive, by kind: timers, sockets, pipes, processes. */
  readonly resources: Readonly<Record<string, number>>;
}

/** Looks into a server that was started with its `environment`. */
export interface Probe {
  readonly environment: NodeJS.ProcessEnv;
  /** Looks at the server and its workers. */
  look(server: Pick<RunningServer, 'pid'>): Promise<Vitals>;
  /** Removes what it has written. */
  remove(): void;
}

/** Makes a probe. */
export function createProbe(): Probe {
  const folder = mkdtempSync(join(tmpdir(), 'vitals-'));
  const [, program = ''] = fixture('heap-probe');
  const file = join(folder, 'vitals');
  return {
    environment: { NODE_OPTIONS: `--require=${program}`, HEAP_PROBE: file },
    look: async ({ pid }) => {
      const all = await Promise.all(serversOf(pid).map((one) => lookAt(one, `${file}.${one}`)));
      return all.reduce(add);
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** A server and its workers. */
export function serversOf(pid: number): number[] {
  return [pid, ...childrenOf(pid).filter((child) => commandOf(child).includes('smtpd-starttls-server'))];
}

/** The smtpds of a server and its workers, zombies too. */
export function smtpdsOf(pid: number): number[] {
  const servers = serversOf(pid);
  return servers.flatMap(childrenOf).filter((child) => !servers.includes(child));
}

async function lookAt(pid: number, file: string): Promise<Vitals> {
  rmSync(file, { force: true });
  process.kill(pid, 'SIGUSR2');
  let written = '';
  await until(
    'the probe has written',
    () => {
      written = readIfThere(file);
      return written !== '';
    },
    60_000,
  );
  const { heap, external, resources }: Pick<Vitals, 'heap' | 'external' | 'resources'> = JSON.parse(written);
  const children = childrenOf(pid).filter((child) => !commandOf(child).includes('smtpd-starttls-server'));
  return {
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
    children: children.length,
    zombies: children.filter((child) => commandOf(child) === '').length,
    resident: Number.parseInt(statusOf(pid, 'VmRSS'), 10),
    heap: Math.round(heap / 1024),
    external: Math.round(external / 1024),
    resources,
  };
}

function add(one: Vitals, other: Vitals): Vitals {
  const resources = { ...one.resources };
  for (const [name, count] of Object.entries(other.resources))
    resources[name] = (resources[name] ?? 0) + count;
  return {
    descriptors: one.descriptors + other.descriptors,
    children: one.children + other.children,
    zombies: one.zombies + other.zombies,
    resident: one.resident + other.resident,
    heap: one.heap + other.heap,
    external: one.external + other.external,
    resources,
  };
}

/** Vitals on one line. */
export function formatVitals(vitals: Vitals): string {
  const { descriptors, children, zombies, resident, heap, external, resources } = vitals;
  const list = Object.entries(resources).map(([name, count]) => `${name} ${count}`);
  return [
    `descriptors ${descriptors}, smtpds ${children}, zombies ${zombies}`,
    `resident ${mib(resident)}, heap ${mib(heap)}, external ${mib(external)} MiB`,
    list.sort().join(', '),
  ].join('; ');
}

function mib(kib: number): string {
  return (kib / 1024).toFixed(1);
}

/** The command line of a process, the words ended by NUL; empty for a zombie. */
function commandOf(pid: number): string {
  return readIfThere(`/proc/${pid}/cmdline`);
}

function readIfThere(file: string): string {
  try {
    return readFileSync(file, 'latin1');
  } catch {
    return '';
  }
}
