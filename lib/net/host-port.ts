/** Hosts with ports, Unix sockets and services: parsing from a command line, and formatting. */

import { readFileSync } from 'node:fs';
import { isIP, isIPv4, isIPv6 } from 'node:net';
import { errorCode } from '../program/failure.ts';
import { usage } from '../program/options.ts';
import type { Endpoint } from './address.ts';

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
    throw usage(`expected HOST:PORT, an IPv6 address in brackets as [::1]:25, not ${JSON.stringify(text)}`);
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
    throw usage(
      `expected unix:PATH, a path of 1 to ${SOCKET_PATH_LIMIT} octets, not ${JSON.stringify(text)}`,
    );
  }
  if (text.includes('/')) throw usage(`expected HOST:PORT or unix:PATH, not ${JSON.stringify(text)}`);
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
  throw usage(
    `expected an address or a host name to listen on, 0 or :: for all, not ${JSON.stringify(host)}`,
  );
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
    throw usage(`expected a port from 0 to 65535, not ${JSON.stringify(text)}`);
  }
  const known = MAIL_SERVICES.get(text);
  if (known !== undefined) return known;
  const named = findService(readServices(services, text), text);
  if (named !== undefined) return named;
  throw usage(`expected a port from 0 to 65535 or a service of ${services}, not ${JSON.stringify(text)}`);
}

function readServices(file: string, name: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw usage(
      `expected a port from 0 to 65535, not ${JSON.stringify(name)}: ${errorCode(error)} at ${file}`,
    );
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
