/**
 * Addresses, ports and networks: parsing from a command line, comparison and formatting.
 *
 * A socket that listens on "::" reports IPv4 clients as IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2).
 * All functions here treat such an address as the IPv4 address in it.
 */

import { readFileSync } from 'node:fs';
import { BlockList, isIP, isIPv4, isIPv6, SocketAddress } from 'node:net';
import { errorCode } from '../program/failure.ts';
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
    throw usage(`expected an address or a network such as 192.0.2.0/24, not ${quoted(part)}`);
  }
  const width = octets.length * 8;
  // The prefix of an IPv4-mapped network counts the 96 bits of the mapping.
  const before = isIPv4(address) ? 0 : 128 - width;
  const bits = prefix === undefined ? width : Number(prefix) - before;
  if (bits < 0 || bits > width) {
    throw usage(`expected a prefix from ${before} to ${before + width}, not ${quoted(part)}`);
  }
  const network = masked(octets, bits);
  if (!network.every((octet, at) => octet === octets[at])) {
    throw usage(
      `expected no bits set after the prefix, as in ${addressText(network)}/${bits}, not ${quoted(part)}`,
    );
  }
  const family = width === 32 ? 'ipv4' : 'ipv6';
  lists[family].addSubnet(addressText(network), bits, family);
}

/**
 * Parses "HOST:PORT". An IPv6 address is in brackets, as in "[::1]:25".
 *
 * @param text its port is a number or the name of a service, see `parsePort`.
 * @returns the host as written, without brackets, and the port number.
 * @throws Failure (100) that names what was expected and what was given.
 */
export function parseHostPort(text: string): { host: string; port: number } {
  const [, bracketed, bare = '', port = ''] = /^(?:\[([^\]]*)\]|([^:[\]]*)):(.+)$/s.exec(text) ?? [];
  const host = bracketed ?? bare;
  if (port === '' || (bracketed === undefined ? !isHost(host) : !isIPv6(host))) {
    throw usage(`expected HOST:PORT, an IPv6 address in brackets as [::1]:25, not ${quoted(text)}`);
  }
  return { host, port: parsePort(port) };
}

/**
 * Parses "ADDRESS[:PORT]". An IPv6 address is in brackets if there is a port.
 *
 * @param defaultPort where there is no port.
 * @returns undefined when it is not that. A zone id is invalid, and so is port 0.
 */
export function parseEndpoint(text: string, defaultPort: number): Endpoint | undefined {
  const [, bracketed, bare = '', digits = defaultPort] =
    /^(?:\[(.*)\]|([\d.]*))(?::(\d{1,5}))?$/s.exec(isIPv6(text) ? `[${text}]` : text) ?? [];
  const ip = bracketed ?? bare;
  const port = Number(digits);
  const isValid = bracketed === undefined ? isIPv4(ip) : isIPv6(ip) && !ip.includes('%');
  return isValid && port > 0 && port <= 65535 ? { ip, port } : undefined;
}

/**
 * Writes "HOST:PORT", with an IPv6 address in brackets: the counterpart of `parseHostPort`.
 *
 * @param host an address, with or without a zone id, or a name.
 */
export function formatHostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Where a server is: a port of a host, or a Unix socket. */
export type ServerAddress = { readonly host: string; readonly port: number } | { readonly path: string };

/** What the address of a Unix socket begins with. */
const UNIX = 'unix:';

/**
 * The longest path of a Unix socket, in octets: sun_path without the NUL (unix(7)). Some versions of Node connect to
 * what is left of a longer path when it is cut there.
 */
const SOCKET_PATH_LIMIT = 107;

/**
 * Parses the address of a server to connect to: "HOST:PORT", see `parseHostPort`, or "unix:PATH". A relative path is
 * relative to the working directory.
 *
 * @throws Failure (100) that names what was expected and what was given.
 */
export function parseServerAddress(text: string): ServerAddress {
  if (text.startsWith(UNIX)) {
    const path = text.slice(UNIX.length);
    const octets = Buffer.byteLength(path);
    if (octets > 0 && octets <= SOCKET_PATH_LIMIT) return { path };
    throw usage(`expected unix:PATH, a path of 1 to ${SOCKET_PATH_LIMIT} octets, not ${quoted(text)}`);
  }
  if (text.includes('/')) throw usage(`expected HOST:PORT or unix:PATH, not ${quoted(text)}`);
  const { host, port } = parseHostPort(text);
  return { host: listenHost(host), port };
}

/** The counterpart of `parseServerAddress`. */
export function formatServerAddress(address: ServerAddress): string {
  return 'path' in address ? `${UNIX}${address.path}` : formatHostPort(address.host, address.port);
}

/**
 * Parses the host that a server listens on.
 *
 * @param host an address, a name, or "0": all IPv4 addresses of this machine, as in tcpserver.
 * @returns the host for `listen` of node:net; "::" is unchanged, and means all IPv4 and IPv6 addresses there.
 * @throws Failure (100) that names what was expected and what was given.
 */
export function listenHost(host: string): string {
  if (host === '0') return '0.0.0.0';
  if (isHost(host)) return host;
  throw usage(`expected an address or a host name to listen on, 0 or :: for all, not ${quoted(host)}`);
}

/** The longest host name, in octets (RFC 1035 section 2.3.4, without the length octets). */
const HOST_NAME_LIMIT = 253;

/** Labels of letters, digits, "-" and "_", separated by dots. */
const HOST_NAME = /^(?:[\w-]{1,63}\.)*[\w-]{1,63}\.?$/;

/** Whether it is an address, a name that can be looked up, or "0". */
function isHost(host: string): boolean {
  return isIP(host) !== 0 || host === '0' || isHostName(host);
}

/**
 * Whether it is a name that can be looked up. One whose last label is a number is not: the resolver reads "10.1" as an
 * address in an old short form, and "192.0.2.256" is a mistyped address.
 */
export function isHostName(host: string): boolean {
  return host.length <= HOST_NAME_LIMIT && HOST_NAME.test(host) && !/(?:^|\.)\d+\.?$/.test(host);
}

/** The mail services, all TCP: in many systems /etc/services does not have them, or does not exist. */
const MAIL_SERVICES: ReadonlyMap<string, number> = new Map([
  ['smtp', 25],
  ['smtps', 465],
  ['submissions', 465],
  ['submission', 587],
  ['lmtp', 24],
]);

/**
 * Parses a port: a number, or the name of a TCP service.
 *
 * @param services the file of services(5), used for all names except the mail services.
 * @returns 0 to 65535.
 * @throws Failure (100) that names what was expected and what was given.
 */
export function parsePort(text: string, services = '/etc/services'): number {
  if (/^\d+$/.test(text)) {
    const port = Number(text);
    if (port <= 65535) return port;
    throw usage(`expected a port from 0 to 65535, not ${quoted(text)}`);
  }
  const known = MAIL_SERVICES.get(text);
  if (known !== undefined) return known;
  const named = findService(readServices(services, text), text);
  if (named !== undefined) return named;
  throw usage(`expected a port from 0 to 65535 or a service of ${services}, not ${quoted(text)}`);
}

function readServices(file: string, name: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw usage(`expected a port from 0 to 65535, not ${quoted(name)}: ${errorCode(error)} at ${file}`);
  }
}

/** Finds the TCP port of a service. A line of services(5) is "NAME PORT/PROTOCOL ALIAS... # comment". */
function findService(services: string, name: string): number | undefined {
  for (const line of services.split('\n')) {
    const [official, portAndProtocol = '', ...aliases] = line.replace(/#.*$/s, '').trim().split(/\s+/);
    const port = /^(\d{1,5})\/tcp$/.exec(portAndProtocol)?.[1];
    if (port === undefined || Number(port) > 65535) continue;
    if (official === name || aliases.includes(name)) return Number(port);
  }
  return undefined;
}

/** Quotes a command-line argument for a message of one line. */
function quoted(word: string): string {
  return JSON.stringify(word);
}
