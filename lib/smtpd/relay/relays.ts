import { hostname } from 'node:os';
import type { Endpoints } from '../../net/endpoints.ts';
import { createTlsClient, type TlsClient } from '../../tls/client.ts';
import { environmentFor } from '../environment.ts';
import { changed, type StartSmtpd } from '../program.ts';
import { type Backend, proxyHeader } from '../remote.ts';
import type { CredentialsByHost } from './credentials-file.ts';
import type { ReachSettings } from './options.ts';
import { type RelayedOptions, startRelayed } from './relayed.ts';
import type { RouteSettings } from './route-options.ts';
import { type FileRoutes, onlyDestination, parseRouteTable } from './route-table.ts';
import type { RelaySecrets } from './secrets.ts';
import type { RelayTarget } from './url.ts';

/** Servers in place of an smtpd: the one that a URL names, or those of a file of routes. */
export interface RelaySpec {
  readonly to: RelayTarget | RouteSettings;
  readonly reach: ReachSettings;
  /** See `Backend`. */
  readonly sendProxy: Backend['sendProxy'];
}

/** The settings of a program that serves many clients. */
export interface RelaysOptions extends Pick<RelayedOptions, 'idleTimeout' | 'errorLimit'> {
  /** See `RelayedOptions`; undefined for the name that the system has. */
  readonly localName: string | undefined;
  /** Of a TLS handshake with a server, in milliseconds; 0 for no limit. */
  readonly handshakeTimeout: number;
  /** The environment of programs, but for the client's connection. */
  readonly environment: NodeJS.ProcessEnv;
  /** Called with the URL of each server, and when it appears in the routes. */
  expected(url: string): void;
}

/** Events of one session. */
export type RelayEvents = Pick<RelayedOptions, 'notice' | 'report' | 'concluded'>;

/** Starts sessions with servers that URLs name. */
export interface Relays {
  /** Uses these from the next session on. To be called before the first. */
  renew(secrets: RelaySecrets): void;
  /** @param client the ends of the client's connection. */
  startFor(client: Endpoints, events: RelayEvents): StartSmtpd;
}

/**
 * The part of the idle timeout in which a server has to be reached. After all of it, the dialogue in front would end the
 * session, as one whose smtpd does not reply.
 */
const REACH_TIME = 0.9;

/** Creates what starts the sessions of a program that serves many clients. */
export function createRelays({ to, reach, sendProxy }: RelaySpec, options: RelaysOptions): Relays {
  const { idleTimeout, errorLimit, environment } = options;
  const localName = options.localName ?? hostname();
  let credentials: CredentialsByHost = new Map();
  let tls: TlsClient | undefined;
  let tlsSecrets = '';
  let table: FileRoutes | undefined;
  if ('url' in to) options.expected(to.url);

  /** What all sessions with this client have in common. */
  function shared(client: Endpoints, events: RelayEvents, tlsEnvironment: Parameters<StartSmtpd>[0]) {
    if (tls === undefined) throw new Error('there are no authorities yet');
    return {
      ...events,
      tls,
      ssh: { program: reach.sshProgram, words: reach.sshWords, environment },
      header: proxyHeader(sendProxy, client, tlsEnvironment),
      localName,
      greetingName: localName,
      credentials,
      environment: changed(environmentFor(environment, client, options.localName), tlsEnvironment),
      connectTimeout: reach.connectTimeout,
      resolver: reach.resolver,
      replyTimeout: idleTimeout,
      reachTimeout: idleTimeout * REACH_TIME,
      idleTimeout,
      errorLimit,
    };
  }

  return {
    renew: (secrets) => {
      credentials = new Map(secrets.credentials);
      if (secrets.routes !== undefined && 'routesFile' in to) {
        table = parseRouteTable(secrets.routes, to.routesFile, reach.pins);
        for (const name of table.names) options.expected(name);
      }
      // The authorities of the system are hundreds, and parsed for each new client.
      const next = JSON.stringify(secrets.tls);
      if (next === tlsSecrets) return;
      tls = createTlsClient({
        credentials: secrets.tls,
        pins: reach.pins,
        timeout: options.handshakeTimeout,
      });
      tlsSecrets = next;
    },
    startFor: (client, events) => (tlsEnvironment) => {
      const session = shared(client, events, tlsEnvironment);
      if ('url' in to) return startRelayed({ ...session, to: { only: onlyDestination(to) } });
      const greetingName = to.greetingName ?? localName;
      return startRelayed({
        ...session,
        greetingName,
        to: { table: () => table ?? NO_ROUTES, offers: to.offers },
      });
    },
  };
}

const NO_ROUTES: FileRoutes = { names: [], hasRecipients: false, find: () => undefined };
