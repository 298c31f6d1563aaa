import { EXIT, Failure } from '../../program/failure.ts';
import type { Destination, RouteTable } from '../../smtp/destination.ts';
import { readRegularFile } from '../../tls/file.ts';
import { checkSmtpdCommand } from '../command.ts';
import { checkVerifiable } from './check-target.ts';
import { parseRoutes, type Route } from './routes.ts';
import { parseRelayUrl, type RelayTarget } from './url.ts';

/** Where mail goes: a server that a URL names, or a program. */
export type RelayServer =
  | { readonly type: 'url'; readonly target: RelayTarget }
  | { readonly type: 'program'; readonly command: readonly string[] };

/** A server for a transaction. */
export interface RelayDestination extends Destination {
  /** The URL, or "|" and a command, as messages name it. */
  readonly name: string;
  readonly server: RelayServer;
  readonly isLmtp: boolean;
  /** For a backup MX. */
  readonly recipientDomain: string | undefined;
}

/** The routes of a file. */
export interface FileRoutes extends RouteTable<RelayDestination> {
  /** The names of all destinations, each once. */
  readonly names: readonly string[];
}

/** Reads a file of routes. @throws Failure (100, 111) that names the file. */
export function readRoutesFile(path: string): string {
  return readRegularFile('--routes', path).toString('latin1');
}

/**
 * Parses a file of routes, and checks all of it.
 *
 * @param text the content, latin1.
 * @param name the file, as messages name it.
 * @param pins see `checkVerifiable`.
 * @throws Failure (100) that names the file and the line.
 */
export function parseRouteTable(text: string, name: string, pins: readonly string[]): FileRoutes {
  const routes = parseRoutes(text, name);
  const servers = new Map<Route, RelayServer>();
  for (const route of routes.all) {
    try {
      servers.set(route, serverOf(route, pins));
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      throw new Failure(EXIT.wrongUsage, `${name}:${route.line}: ${error.message}`);
    }
  }
  return {
    names: [...new Set([...servers.values()].map(nameOf))],
    hasRecipients: routes.hasRecipients,
    find: (sender, recipient) => {
      const byRecipient = recipient === undefined ? undefined : routes.find('to', recipient);
      const route = byRecipient ?? routes.find('from', sender);
      const server = route === undefined ? undefined : servers.get(route);
      return server === undefined ? undefined : destination(server, recipient ?? '');
    },
  };
}

function serverOf({ of, target }: Route, pins: readonly string[]): RelayServer {
  if (target.type === 'program') {
    checkSmtpdCommand(target.command, 'smtpd-starttls-server');
    return target;
  }
  const parsed = parseRelayUrl(target.url);
  if (isBackup(parsed) && of === 'from') {
    throw new Failure(EXIT.wrongUsage, `${parsed.url} is for recipients, write "to" before the pattern`);
  }
  checkVerifiable(parsed, pins);
  return { type: 'url', target: parsed };
}

function nameOf(server: RelayServer): string {
  return server.type === 'url' ? server.target.url : `|${server.command.join(' ')}`;
}

function isBackup({ ways }: RelayTarget): boolean {
  return ways.some((way) => 'backup' in way);
}

/** The destination of all mail. */
export function onlyDestination(target: RelayTarget): RelayDestination {
  const server = { type: 'url', target } as const;
  return { ...destination(server, ''), takesOneRecipient: false };
}

function destination(server: RelayServer, recipient: string): RelayDestination {
  const name = nameOf(server);
  if (server.type === 'program') {
    return { key: name, name, server, isLmtp: false, takesOneRecipient: false, recipientDomain: undefined };
  }
  const { target } = server;
  const isLmtp = target.protocol === 'lmtp';
  const recipientDomain = isBackup(target) ? recipient.slice(recipient.lastIndexOf('@') + 1) : undefined;
  return {
    // The owner of one domain must not choose the server of another one.
    key: recipientDomain === undefined ? name : `${name} ${recipientDomain.toLowerCase()}`,
    name,
    server,
    isLmtp,
    recipientDomain,
    takesOneRecipient: isLmtp,
  };
}
