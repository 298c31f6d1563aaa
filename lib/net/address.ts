/**
 * IP addresses and networks: parsing, comparison and formatting.
 *
 * A socket that listens on "::" reports IPv4 clients as IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2).
 * All functions here treat such an address as the IPv4 address in it.
 */

import { BlockList, isIPv4, isIPv6, SocketAddress } from 'node:net';
import { usage } from '../program/options.ts';

/** One end of a TCP connection. */
export interface Endpoint {
  /** An IPv4 or IPv6 address. */
  readonly ip: string;
  /** 0 to 65535. */
  readonly port: number;
}

/** Converts an IPv4-mapped IPv6 address to IPv4; returns anything else unchanged, with its zone id. */
export function plainAddress(ip: string): string {
  // Fast path: most addresses are IPv4, and this runs for every connection.
  if (isIPv4(ip)) return ip;
  const octets = addressOctets(ip);
  return octets?.length === 4 ? octets.join('.') : ip;
}

/**
 * The unit of limits per address: an IPv4 address, or the /64 network of an IPv6 address, from which one host can
 * choose addresses freely. The zone id is ignored.
 *
 * @returns the same text for all spellings of an address; text that is not an address is returned unchanged.
 */
export function addressGroup(ip: string): string {
  if (isIPv4(ip)) return ip;
  const octets = addressOctets(ip);
  if (octets === undefined) return ip;
  return octets.length === 4 ? octets.join('.') : `${addressText(masked(octets, 64))}/64`;
}

/** The prefix of IPv4-mapped IPv6 addresses. */
const MAPPED_PREFIX = Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff);

/**
 * The octets of an address in network order: 4 for an IPv4 or IPv4-mapped address, otherwise 16. The zone id is
 * ignored.
 *
 * @returns undefined when it is not an address.
 */
export function addressOctets(ip: string): Uint8Array | undefined {
  if (isIPv4(ip)) return Uint8Array.from(ip.split('.'), Number);
  if (!isIPv6(ip)) return undefined;
  const octets = ipv6Octets(ip.replace(/%.*$/s, ''));
  return MAPPED_PREFIX.every((octet, at) => octets[at] === octet) ? octets.subarray(12) : octets;
}

/** @param ip a valid IPv6 address without a zone id. */
function ipv6Octets(ip: string): Uint8Array {
  const [head = '', tail = ''] = ip.split('::', 2).map(hexDigits);
  return Buffer.from(head + '0'.repeat(32 - head.length - tail.length) + tail, 'hex');
}

/** Four hexadecimal digits for each group, eight for a dotted IPv4 address at the end. */
function hexDigits(groups: string): string {
  if (groups === '') return '';
  return groups
    .split(':')
    .map((group) =>
      group.includes('.')
        ? Buffer.from(group.split('.').map(Number)).toString('hex')
        : group.padStart(4, '0'),
    )
    .join('');
}

/**
 * Formats an address: IPv6 in the canonical form of RFC 5952, IPv4-mapped as IPv4.
 *
 * @param octets 4 or 16 in network order.
 */
export function addressText(octets: Uint8Array): string {
  if (octets.length === 4) return octets.join('.');
  if (MAPPED_PREFIX.every((octet, at) => octets[at] === octet)) return octets.subarray(12).join('.');
  const groups = Buffer.from(octets)
    .toString('hex')
    .replace(/.{4}(?=.)/g, '$&:');
  return new SocketAddress({ address: groups, family: 'ipv6' }).address;
}

/** The address with all but its first `bits` bits cleared. */
function masked(octets: Uint8Array, bits: number): Uint8Array {
  return octets.map((octet, at) => octet & (0xff00 >> Math.min(Math.max(bits - 8 * at, 0), 8)));
}

/** A set of networks. */
export interface Networks {
  /** Whether an address is in one of them. False for text that is not an address; the zone id is ignored. */
  contains(ip: string): boolean;
}

/**
 * Parses a list of addresses and networks, such as "192.0.2.1,10.0.0.0/8,2001:db8::/32". Spaces are allowed
 * around the commas.
 *
 * @throws Failure (100) that names the invalid part; an empty list is invalid. So is a network with bits set after
 * its prefix: "10.0.0.1/8" is ambiguous, it may mean 10.0.0.0/8 or 10.0.0.1.
 */
export function parseNetworks(text: string): Networks {
  // Two lists, because in Node's BlockList an IPv6 network such as "::/0" also contains IPv4 addresses.
  const lists = { ipv4: new BlockList(), ipv6: new BlockList() };
  for (const part of text.split(',')) addNetwork(lists, part.trim());
  return {
    contains: (ip) => {
      const plain = plainAddress(ip).replace(/%.*$/s, '');
      if (isIPv4(plain)) return lists.ipv4.check(plain, 'ipv4');
      return isIPv6(plain) && lists.ipv6.check(plain, 'ipv6');
    },
  };
}

function addNetwork(lists: Record<'ipv4' | 'ipv6', BlockList>, part: string): void {
  const [, address = '', prefix] = /^([\d.a-f:]+)(?:\/(\d{1,3}))?$/i.exec(part) ?? [];
  const octets = addressOctets(address);
  if (octets === undefined) {
    throw usage(`expected an address or a network such as 192.0.2.0/24, not ${JSON.stringify(part)}`);
  }
  const width = octets.length * 8;
  // The prefix of an IPv4-mapped network counts the 96 bits of the mapping.
  const before = isIPv4(address) ? 0 : 128 - width;
  const bits = prefix === undefined ? width : Number(prefix) - before;
  if (bits < 0 || bits > width) {
    throw usage(`expected a prefix from ${before} to ${before + width}, not ${JSON.stringify(part)}`);
  }
  const network = masked(octets, bits);
  if (!network.every((octet, at) => octet === octets[at])) {
    throw usage(
      `expected no bits set after the prefix, as in ${addressText(network)}/${bits}, not ${JSON.stringify(part)}`,
    );
  }
  const family = width === 32 ? 'ipv4' : 'ipv6';
  lists[family].addSubnet(addressText(network), bits, family);
}
