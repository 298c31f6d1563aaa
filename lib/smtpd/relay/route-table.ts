import { EXIT, Failure } from '../../program/failure.ts';
import type { Destination, RouteTable } from '../../smtp/routing.ts';
import { readRegularFile } from '../../tls/file.ts';
import { checkSmtpdCommand } from '../command.ts';
import { parseRoutes, type Route } from './routes.ts';
import { parseRelayUrl, type RelayTarget } from './url.ts';

/** Where a route leads: a server that a URL names, or a program. */
export type RouteServer =
  | { readonly type: 'url'; readonly target: RelayTarget }
  | { readonly type: 'program'; readonly command: readonly string[] };

/** A server for a transaction. */
export interface RoutedDestination extends Destination {
  /** The URL, or "|" and a command, as messages name it. */
  readonly name: string;
  readonly server: RouteServer;
  /** For a backup MX. */
  readonly recipientDomain: string | undefined;
}

/**
 * Reads a file of routes, and checks all of it.
 *
 * @param check checks the server of a URL further, and throws a Failure.
 * @throws Failure (100, 111) that names the file, and the line if there is one.
 */
export function readRouteTable(
  path: string,
  check: (target: RelayTarget) => void,
): RouteTable<RoutedDestination> {
  const routes = parseRoutes(readRegularFile('--routes', path).toString('latin1'), path);
  const servers = new Map<Route, RouteServer>();
  for (const route of routes.all) {
    try {
      servers.set(route, serverOf(route, check));
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      throw new Failure(EXIT.wrongUsage, `${path}:${route.line}: ${error.message}`);
    }
  }
  return {
    hasRecipients: routes.hasRecipients,
    find: (sender, recipient) => {
      const byRecipient = recipient === undefined ? undefined : routes.find('to', recipient);
      const route = byRecipient ?? routes.find('from', sender);
      const server = route === undefined ? undefined : servers.get(route);
      return server === undefined ? undefined : destination(server, recipient ?? '');
    },
  };
}

function serverOf({ of, target }: Route, check: (target: RelayTarget) => void): RouteServer {
  if (target.type === 'program') {
    checkSmtpdCommand(target.command, 'smtpd-starttls-server');
    return target;
  }
  const parsed = parseRelayUrl(target.url);
  if (isBackup(parsed) && of === 'from') {
    throw new Failure(EXIT.wrongUsage, `${parsed.url} is for recipients, write "to" before the pattern`);
  }
  check(parsed);
  return { type: 'url', target: parsed };
}

function isBackup({ ways }: RelayTarget): boolean {
  return ways.some((way) => 'backup' in way);
}

function destination(server: RouteServer, recipient: string): RoutedDestination {
  if (server.type === 'program') {
    const name = `|${server.command.join(' ')}`;
    return { key: name, name, server, takesOneRecipient: false, recipientDomain: undefined };
  }
  const { target } = server;
  const recipientDomain = isBackup(target) ? recipient.slice(recipient.lastIndexOf('@') + 1) : undefined;
  return {
    // The owner of one domain must not choose the server of another one.
    key: recipientDomain === undefined ? target.url : `${target.url} ${recipientDomain.toLowerCase()}`,
    ...{ name: target.url, server, recipientDomain },
    takesOneRecipient: target.protocol === 'lmtp',
  };
}
