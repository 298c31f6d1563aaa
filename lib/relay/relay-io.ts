import { hostname } from 'node:os';
import { endpointsIn, withUcspiTcp } from '../net/endpoints.ts';
import { refuseInspector } from '../program/inspector.ts';
import { createReporter } from '../program/reporter.ts';
import { runStandardSession } from '../session/standard-session.ts';
import { environmentForSmtpd } from '../smtpd/environment.ts';
import { applyEnvelope } from '../smtpd/message-options.ts';
import { checkTarget } from '../smtpd/relay/check-target.ts';
import { readCredentialsFile } from '../smtpd/relay/credentials-file.ts';
import type { RelaySettings } from '../smtpd/relay/options.ts';
import { type RelayedOptions, startRelayed } from '../smtpd/relay/relayed.ts';
import type { RouteSettings } from '../smtpd/relay/route-options.ts';
import { onlyDestination, parseRouteTable, readRoutesFile } from '../smtpd/relay/route-table.ts';
import { parseRelayUrl } from '../smtpd/relay/url.ts';
import { proxyHeader } from '../smtpd/remote.ts';
import type { Smtpd } from '../smtpd/smtpd.ts';
import type { MessageSettings } from '../smtpd/with-envelope.ts';
import { createTlsClient } from '../tls/client.ts';
import { readClientCredentials } from '../tls/client-credentials.ts';

/** The command line of the relay. */
export interface RelayIoOptions extends RelaySettings, Pick<MessageSettings, 'strictNewlines'> {
  /** The server, or the routes to several. */
  readonly to: string | RouteSettings;
  /** The name at the start of each message. */
  readonly program: string;
  /** 0 to 2, see `createReporter`. */
  readonly verbosity: number;
}

/** How many of a client's commands may be refused. At the last one the session ends. */
const ERROR_LIMIT = 100;

/**
 * Passes the session of the client on descriptors 0 and 1 on to the server that a URL or a route names.
 *
 * @returns the exit status: 0, or 111 when the server could not be had or was lost.
 * @throws Failure (100, 111) when the URL, routes, keys, certificates or credentials cannot be used; (111) when descriptors
 * 0 and 1 are not connected to a client, and see `refuseInspector`.
 */
export async function runRelayIo(options: RelayIoOptions, given: NodeJS.ProcessEnv): Promise<number> {
  refuseInspector();
  const { to, program, verbosity, idleTimeout } = options;
  const destinations = destinationsOf(options);
  const byHost =
    options.credentialsFile === undefined ? new Map() : readCredentialsFile(options.credentialsFile);
  const tls = createTlsClient({
    credentials: readClientCredentials(given),
    pins: options.pins,
    timeout: options.handshakeTimeout,
  });
  const environment = withUcspiTcp(given);
  const report = createReporter(program, verbosity);
  const localName = options.localName ?? hostname();
  const start = (): Smtpd =>
    startRelayed({
      to: destinations,
      ssh: {
        program: options.sshProgram,
        words: options.sshWords,
        environment: environmentForSmtpd(given),
      },
      tls,
      resolver: options.resolver,
      header: proxyHeader(options.sendProxy, endpointsIn(environment, 'TCP'), environment),
      localName,
      greetingName: typeof to === 'string' ? localName : (to.greetingName ?? localName),
      connectTimeout: options.connectTimeout,
      replyTimeout: idleTimeout,
      idleTimeout,
      errorLimit: ERROR_LIMIT,
      notice: ({ text }) => report.warning(text),
      report,
      credentials: byHost,
      environment: environmentForSmtpd(environment),
    });
  const { strictNewlines } = options;
  return runStandardSession({
    times: options,
    report,
    startSmtpd: await applyEnvelope(
      start,
      { received: undefined, strictNewlines },
      { clientAddress: undefined, report },
    ),
  });
}

/** Where mail goes. @throws Failure (100) when the URL cannot be used, (100, 111) when the file of routes cannot. */
function destinationsOf({ to, pins, ...others }: RelayIoOptions): RelayedOptions['to'] {
  if (typeof to === 'string') {
    const target = parseRelayUrl(to);
    checkTarget(target, { pins, ...others });
    return { only: onlyDestination(target) };
  }
  const table = parseRouteTable(readRoutesFile(to.routesFile), to.routesFile, pins);
  return { table: () => table, offers: to.offers };
}
