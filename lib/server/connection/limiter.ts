import { deferred } from '../../program/deferred.ts';

/** How many connections are served at once. */
export interface GateLimits {
  /** In all. */
  readonly connections: number;
  /** From one address; Infinity for no such limit. */
  readonly perAddress: number;
  /** How many may wait while there is no room. */
  readonly waiting: number;
}

/** What becomes of a connection at the gate. */
export type Admission =
  /** It is served. */
  | 'in'
  /** There are too many from its address. */
  | 'per-address'
  /** There is no room, not even to wait. */
  | 'no-room';

/** A connection at the gate, or behind it. */
export interface Visit {
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
export interface Gate {
  /** @param address what counts as one for the limit; undefined when it will be known later. */
  visit(address: string | undefined): Visit;
}

/** A gate and its numbers. */
export interface LocalGate extends Gate {
  /** How many are in. */
  inside(): number;
  /** How many wait. */
  waiting(): number;
}

/** A connection that is counted. */
interface Guest {
  address: string | undefined;
  state: 'waiting' | 'inside' | 'gone';
  readonly admit: (admission: Admission) => void;
}

/**
 * Makes a gate that counts in this process.
 *
 * Node cannot leave connections in the backlog of the system: a listening socket is accepted from or
 * closed. So those for which there is no room are accepted and wait here, in the order in which they came.
 */
export function createGate(limits: GateLimits): LocalGate {
  let inside = 0;
  const queue = new Set<Guest>();
  const counts = new Map<string, number>();

  function count(guest: Guest, address: string): boolean {
    const known = counts.get(address) ?? 0;
    if (known >= limits.perAddress) return false;
    counts.set(address, known + 1);
    guest.address = address;
    return true;
  }

  function uncount(address: string): void {
    const left = (counts.get(address) ?? 1) - 1;
    if (left === 0) counts.delete(address);
    else counts.set(address, left);
  }

  function admit(guest: Guest): void {
    guest.state = 'inside';
    inside += 1;
    guest.admit('in');
  }

  function leave(guest: Guest): void {
    if (guest.state === 'gone') return;
    if (guest.state === 'inside') inside -= 1;
    queue.delete(guest);
    guest.state = 'gone';
    if (guest.address !== undefined) uncount(guest.address);
    const [next] = queue;
    if (next === undefined || inside >= limits.connections) return;
    queue.delete(next);
    admit(next);
  }

  function turnAway(guest: Guest, why: Admission): void {
    guest.admit(why);
    leave(guest);
  }

  return {
    inside: () => inside,
    waiting: () => queue.size,
    visit: (address) => {
      const { promise, resolve } = deferred<Admission>();
      const guest: Guest = { address: undefined, state: 'waiting', admit: resolve };
      if (address !== undefined && !count(guest, address)) turnAway(guest, 'per-address');
      else if (inside < limits.connections) admit(guest);
      else if (queue.size < limits.waiting) queue.add(guest);
      else turnAway(guest, 'no-room');
      return {
        admission: promise,
        claim: (claimed) => {
          if (guest.state === 'gone') return Promise.resolve(false);
          if (guest.address !== undefined) uncount(guest.address);
          guest.address = undefined;
          return Promise.resolve(count(guest, claimed));
        },
        leave: () => leave(guest),
      };
    },
  };
}
