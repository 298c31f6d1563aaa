/**
 * A backup MX: mail for a domain is passed on to the MX hosts that its domain prefers to this one.
 *
 * The owner of the domain chooses these hosts: their names and addresses can be anything. So they get neither
 * credentials nor a PROXY header, and this machine itself is not connected to on port 25, as in Postfix: the mail could loop,
 * or the server here could relay for its own host.
 */

import type { LookupAddress, MxRecord } from 'node:dns';
import { formatHostPort, isHostName } from '../../net/host-port.ts';
import { createResolver, isOwnAddress, type Resolver } from '../../net/resolver.ts';
import { upon } from '../../program/deferred.ts';
import { errorCode } from '../../program/failure.ts';
import type { Attempt, ReachRequest } from './attempt.ts';
import { failureWarning, noConnection, noDns, noMx, type RelayFailure } from './failure.ts';
import { type BackupWay, comparableName, parseRelayUrl } from './url.ts';

/** At most this many hosts are tried: the client waits for all of them. */
const HOST_LIMIT = 5;

/** The port on which this machine is not connected to. On another one that the URL names, there may be another server. */
const SMTP_PORT = 25;

/**
 * Reaches the first MX host that can be reached. Each failure is logged. If all fail, the result is a failure that may
 * pass, unless all have refused for good, with the reasons of all.
 *
 * Time: the connect timeout for the MX records; and for each host the same for its addresses, and that of `reach`.
 *
 * @param reach reaches one host.
 */
export async function reachBackup(
  way: BackupWay,
  request: ReachRequest,
  reach: (request: ReachRequest) => Promise<Attempt>,
): Promise<Attempt> {
  const resolver = createResolver(request.resolver, request.connectTimeout);
  const release = upon(request.abort, resolver.cancel);
  try {
    const found = await findHosts(way, request, resolver);
    if ('failure' in found) return failed(found.failure, request);
    const failures: RelayFailure[] = [];
    for (const host of found.hosts) {
      const result = await reachHost({ host, port: way.port }, request, resolver, reach);
      if (result.type === 'reached') return result;
      failures.push(result.failure);
      // The hosts that follow in the order would send the mail back here.
      if (resolver.isCancelled() || result.failure.kind === 'loop') break;
    }
    return { type: 'failed', failure: combined(failures) };
  } finally {
    release();
  }
}

type Hosts =
  /** In the order in which they are tried, one or more. */
  { readonly hosts: readonly string[] } | { readonly failure: RelayFailure };

async function findHosts(
  { backup: name }: BackupWay,
  request: ReachRequest,
  resolver: Resolver,
): Promise<Hosts> {
  const { recipientDomain: domain = '' } = request;
  if (!isHostName(domain)) return { failure: noMx(`not a domain name: "${domain}"`) };
  let records: readonly MxRecord[];
  try {
    records = await resolver.mx(domain);
  } catch (error) {
    return { failure: noDns(`${domain}: cannot look up MX records: ${errorCode(error)}`) };
  }
  const chosen = preferredHosts(records, name);
  if ('fault' in chosen) return { failure: noMx(`${domain}: ${chosen.fault}`) };
  request.report.info(`MX hosts for ${domain}: ${chosen.hosts.join(', ')}`);
  return chosen;
}

/**
 * Chooses the MX hosts with a preference value lower than that of this one (RFC 5321 section 5.1), in the order of these
 * values, at random where they are equal; each once, and five at most. A record that does not have a host name but an
 * address, for example, is ignored.
 *
 * @param name this host, see `comparableName`.
 * @returns one host or more, or why there is none.
 */
export function preferredHosts(
  records: readonly MxRecord[],
  name: string,
): { readonly hosts: readonly string[] } | { readonly fault: string } {
  if (records.length === 0) return { fault: 'it has no MX records' };
  // RFC 7505.
  if (records.every(({ exchange }) => exchange === '')) return { fault: 'it accepts no mail (null MX)' };
  const ordered = records
    .map(({ exchange, priority }) => ({ host: comparableName(exchange), priority, order: Math.random() }))
    .sort((one, other) => one.priority - other.priority || one.order - other.order);
  const own = ordered.find(({ host }) => host === name);
  if (own === undefined) return { fault: `${name} is not one of its MX hosts` };
  const preferred = ordered.filter(({ host, priority }) => priority < own.priority && isHostName(host));
  if (preferred.length === 0) return { fault: `it has no MX host that is preferred to ${name}` };
  return { hosts: [...new Set(preferred.map(({ host }) => host))].slice(0, HOST_LIMIT) };
}

async function reachHost(
  address: { readonly host: string; readonly port: number },
  request: ReachRequest,
  resolver: Resolver,
  reach: (request: ReachRequest) => Promise<Attempt>,
): Promise<Attempt> {
  const { host, port } = address;
  const name = formatHostPort(host, port);
  let addresses: readonly LookupAddress[];
  try {
    addresses = await resolver.addresses(host);
  } catch (error) {
    return failed(noDns(`cannot look up its address: ${errorCode(error)}`), request, name);
  }
  if (addresses.length === 0) return failed(noConnection('ENOTFOUND'), request, name);
  const own = port === SMTP_PORT ? addresses.find((one) => isOwnAddress(one.address)) : undefined;
  if (own !== undefined) return failed(noMx(`${own.address} is this machine`, 'loop'), request, name);
  const target = parseRelayUrl(`smtp+tls://${name}`);
  return reach({ ...request, target, addresses, credentials: undefined, header: undefined });
}

/** Logs a failure. @param where is added to its reason. */
function failed(failure: RelayFailure, { target, report }: ReachRequest, where?: string): Attempt {
  report.warning(failureWarning(where ?? target.url, failure));
  return {
    type: 'failed',
    failure: where === undefined ? failure : { ...failure, why: `${where}: ${failure.why}` },
  };
}

/** The last failure that may pass, else the last one, with the reasons of all. */
function combined(failures: readonly RelayFailure[]): RelayFailure {
  const failure = failures.findLast(({ code }) => code < 500) ?? failures.at(-1);
  if (failure === undefined) throw new Error('no host was tried');
  return { ...failure, why: failures.map(({ why }) => why).join('; ') };
}
