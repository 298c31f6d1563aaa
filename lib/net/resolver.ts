import { CANCELLED, type LookupAddress, type MxRecord, NODATA, NOTFOUND, promises, TIMEOUT } from 'node:dns';
import { networkInterfaces } from 'node:os';
import { errorCode } from '../program/failure.ts';
import { within } from '../stream/time.ts';
import { parseNetworks, plainAddress } from './address.ts';

/** Looks up names in DNS. */
export interface Resolver {
  /**
   * The MX records of a domain (RFC 5321 section 5.1), in the order of the answer.
   *
   * @returns none if there are none, or no such domain.
   * @throws Error with a code, such as ETIMEOUT, ESERVFAIL or ECANCELLED.
   */
  mx(domain: string): Promise<readonly MxRecord[]>;
  /** The addresses of a host, IPv6 first (RFC 8305 section 4), at most five of each family. Returns and throws as `mx`. */
  addresses(host: string): Promise<readonly LookupAddress[]>;
  /** Ends all look-ups, and those that are started later. */
  cancel(): void;
  isCancelled(): boolean;
}

/** The time for the first query to a server, in milliseconds. The second and last one has twice that. */
const QUERY_TIMEOUT = 5000;

/** In an answer there may be thousands, and each would be connected to. */
const ADDRESS_LIMIT = 5;

/** The codes of an answer that there are no such records. */
const NONE: ReadonlySet<string> = new Set([NODATA, NOTFOUND]);

/**
 * Makes a resolver, which reads resolv.conf now, and not again.
 *
 * @param server "ADDRESS:PORT", with an IPv6 address in brackets; undefined for those of resolv.conf.
 * @param timeout for one look-up, all queries to all servers together, in milliseconds.
 */
export function createResolver(server: string | undefined, timeout: number): Resolver {
  const resolver = new promises.Resolver({ timeout: QUERY_TIMEOUT, tries: 2 });
  if (server !== undefined) resolver.setServers([server]);

  let isCancelled = false;

  async function answer<T>(query: () => Promise<T[]>): Promise<T[]> {
    if (isCancelled) throw new Error(CANCELLED);
    try {
      const records = await within(timeout, query());
      if (records !== undefined) return records;
    } catch (error) {
      if (NONE.has(errorCode(error))) return [];
      throw error;
    }
    resolver.cancel();
    throw new Error(TIMEOUT);
  }

  async function addressesOf(query: () => Promise<string[]>, family: 4 | 6): Promise<LookupAddress[]> {
    const found = await answer(query);
    return found.slice(0, ADDRESS_LIMIT).map((address) => ({ address, family }));
  }

  return {
    mx: (domain) => answer(() => resolver.resolveMx(domain)),
    addresses: async (host) => {
      const results = await Promise.allSettled([
        addressesOf(() => resolver.resolve6(host), 6),
        addressesOf(() => resolver.resolve4(host), 4),
      ]);
      const found = results.flatMap((result) => (result.status === 'fulfilled' ? result.value : []));
      // A host whose server does not answer for one family can be reached by the other.
      const failure = results.find((result) => result.status === 'rejected');
      if (found.length === 0 && failure !== undefined) throw failure.reason;
      return found;
    },
    cancel: () => {
      isCancelled = true;
      resolver.cancel();
    },
    isCancelled: () => isCancelled,
  };
}

/** Loopback, and the addresses that connect to it: 0.0.0.0 and "::". */
const LOOPBACK = parseNetworks('127.0.0.0/8,0.0.0.0/8,::1,::');

/** Whether a connection to an address ends on this machine: it is loopback, or one of an interface. */
export function isOwnAddress(ip: string): boolean {
  const plain = plainAddress(ip);
  if (LOOPBACK.contains(plain)) return true;
  return Object.values(networkInterfaces()).some((list) => list?.some(({ address }) => address === plain));
}
