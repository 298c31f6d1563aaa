import { deferred } from '../../program/deferred.ts';

/** How many connections are served at once. */
export interface ConnectionLimits {
  /** In all. */
  readonly connections: number;
  /** From one address; Infinity for no such limit. */
  readonly perAddress: number;
  /** How many may wait while there is no room. */
  readonly waiting: number;
}

/** What becomes of a connection at the limiter. */
export type Admission =
  /** It is served. */
  | 'in'
  /** There are too many from its address. */
  | 'per-address'
  /** There is no room, not even to wait. */
  | 'no-room';

/** A connection at the limiter, or behind it. */
export interface Slot {
  /** Settles when it may come in or is turned away. It may take as long as it likes. */
  readonly admission: Promise<Admission>;
  /**
   * Counts it for the address that it comes from, when that was not known before; what is claimed later takes the
   * place of what was claimed before. False when there are too many.
   */
  claim(address: string): Promise<boolean>;
  /** Gives up the place, or the wait for one. To be called in any case, more than once does no harm. */
  leave(): void;
}

/** Where connections are counted, over all worker processes. */
export interface Limiter {
  /** @param address what counts as one for the limit; undefined when it will be known later. */
  slot(address: string | undefined): Slot;
}

/** A limiter and its numbers. */
export interface LocalLimiter extends Limiter {
  /** How many are in. */
  inside(): number;
  /** How many wait. */
  waiting(): number;
}

/** A connection that is counted. */
interface Entry {
  address: string | undefined;
  state: 'waiting' | 'inside' | 'gone';
  readonly admit: (admission: Admission) => void;
}

/**
 * Makes a limiter that counts in this process.
 *
 * Node cannot leave connections in the backlog of the system: a listening socket is accepted from or
 * closed. So those for which there is no room are accepted and wait here, in the order in which they came.
 */
export function createLimiter(limits: ConnectionLimits): LocalLimiter {
  let inside = 0;
  const queue = new Set<Entry>();
  const counts = new Map<string, number>();

  function count(entry: Entry, address: string): boolean {
    const known = counts.get(address) ?? 0;
    if (known >= limits.perAddress) return false;
    counts.set(address, known + 1);
    entry.address = address;
    return true;
  }

  function uncount(address: string): void {
    const left = (counts.get(address) ?? 1) - 1;
    if (left === 0) counts.delete(address);
    else counts.set(address, left);
  }

  function admit(entry: Entry): void {
    entry.state = 'inside';
    inside += 1;
    entry.admit('in');
  }

  function leave(entry: Entry): void {
    if (entry.state === 'gone') return;
    if (entry.state === 'inside') inside -= 1;
    queue.delete(entry);
    entry.state = 'gone';
    if (entry.address !== undefined) uncount(entry.address);
    const [next] = queue;
    if (next === undefined || inside >= limits.connections) return;
    queue.delete(next);
    admit(next);
  }

  function turnAway(entry: Entry, why: Admission): void {
    entry.admit(why);
    leave(entry);
  }

  return {
    inside: () => inside,
    waiting: () => queue.size,
    slot: (address) => {
      const { promise, resolve } = deferred<Admission>();
      const entry: Entry = { address: undefined, state: 'waiting', admit: resolve };
      if (address !== undefined && !count(entry, address)) turnAway(entry, 'per-address');
      else if (inside < limits.connections) admit(entry);
      else if (queue.size < limits.waiting) queue.add(entry);
      else turnAway(entry, 'no-room');
      return {
        admission: promise,
        claim: (claimed) => {
          if (entry.state === 'gone') return Promise.resolve(false);
          if (entry.address !== undefined) uncount(entry.address);
          entry.address = undefined;
          return Promise.resolve(count(entry, claimed));
        },
        leave: () => leave(entry),
      };
    },
  };
}
