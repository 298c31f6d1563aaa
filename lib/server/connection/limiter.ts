import { deferred } from '../../program/deferred.ts';

/** Limits on concurrent connections. */
export interface ConnectionLimits {
  /** How many may be active in total. */
  readonly connections: number;
  /** How many there may be from one address; Infinity for no limit. */
  readonly perAddress: number;
  /** How many may wait while `connections` are active. */
  readonly waiting: number;
}

/** The limiter's decision about a connection. */
export type Admission =
  /** It may be served. */
  | 'admitted'
  /** Too many connections from its address. */
  | 'per-address'
  /** Too many connections in total, and the queue is full. */
  | 'no-room';

/** A connection's slot of the limiter, waiting or active. */
export interface Slot {
  /** Settles when the connection is admitted or refused. The wait has no bound here. */
  readonly admission: Promise<Admission>;
  /**
   * Counts the connection for its address, when that was not known to `Limiter.slot`. A later claim replaces an
   * earlier one. Gives false when there are too many from that address.
   */
  claim(address: string): Promise<boolean>;
  /** Releases the slot, or leaves the queue. Must always be called; further calls do nothing. */
  release(): void;
}

/** Counts connections, or what else is limited, over all worker processes. */
export interface Limiter {
  /** @param address what counts as one address, see `addressGroup`; undefined when it is claimed later. */
  slot(address: string | undefined): Slot;
}

/** The limiters of a service. */
export interface Limiters {
  /** Of connections. */
  readonly limiter: Limiter;
  /** Of smtpds that run on demand. */
  readonly smtpdLimiter: Limiter;
}

/** A limiter in this process, and its counts. */
export interface LocalLimiter extends Limiter {
  /** How many connections are active. */
  active(): number;
  /** How many connections wait. */
  waiting(): number;
}

/** The state of a slot. */
interface Entry {
  address: string | undefined;
  state: 'waiting' | 'active' | 'released';
  readonly decide: (admission: Admission) => void;
}

/**
 * Creates a limiter that counts in this process.
 *
 * Node cannot leave connections in the kernel's backlog: it accepts from a listening socket or closes it. So
 * connections beyond the limit are accepted, and wait here in order of arrival.
 */
export function createLimiter(limits: ConnectionLimits): LocalLimiter {
  let active = 0;
  const queue = new Set<Entry>();
  const counts = new Map<string, number>();

  function count(entry: Entry, address: string): boolean {
    const current = counts.get(address) ?? 0;
    if (current >= limits.perAddress) return false;
    counts.set(address, current + 1);
    entry.address = address;
    return true;
  }

  function uncount(address: string): void {
    const remaining = (counts.get(address) ?? 1) - 1;
    if (remaining === 0) counts.delete(address);
    else counts.set(address, remaining);
  }

  function admit(entry: Entry): void {
    entry.state = 'active';
    active += 1;
    entry.decide('admitted');
  }

  function release(entry: Entry): void {
    if (entry.state === 'released') return;
    if (entry.state === 'active') active -= 1;
    queue.delete(entry);
    entry.state = 'released';
    if (entry.address !== undefined) uncount(entry.address);
    const [next] = queue;
    if (next === undefined || active >= limits.connections) return;
    queue.delete(next);
    admit(next);
  }

  function refuse(entry: Entry, why: Admission): void {
    entry.decide(why);
    release(entry);
  }

  return {
    active: () => active,
    waiting: () => queue.size,
    slot: (address) => {
      const { promise, resolve } = deferred<Admission>();
      const entry: Entry = { address: undefined, state: 'waiting', decide: resolve };
      if (address !== undefined && !count(entry, address)) refuse(entry, 'per-address');
      else if (active < limits.connections) admit(entry);
      else if (queue.size < limits.waiting) queue.add(entry);
      else refuse(entry, 'no-room');
      return {
        admission: promise,
        claim: (claimed) => {
          if (entry.state === 'released') return Promise.resolve(false);
          if (entry.address !== undefined) uncount(entry.address);
          entry.address = undefined;
          return Promise.resolve(count(entry, claimed));
        },
        release: () => release(entry),
      };
    },
  };
}
