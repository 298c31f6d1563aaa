import type { Socket } from 'node:net';
import { withoutUcspiTcp } from '../net/endpoints.ts';
import type { ProxyProtocolSettings } from '../net/options.ts';
import { errorCode } from '../program/failure.ts';
import type { SessionTerms } from '../session/options.ts';
import { environmentForSmtpd, smtpdFor } from '../smtpd/environment.ts';
import type { SmtpdSettings } from '../smtpd/options.ts';
import { within } from '../stream/time.ts';
import { createTlsServer, type TlsServer } from '../tls/handshake.ts';
import type { SmtpTlsSettings, TlsSettings } from '../tls/options.ts';
import { type Connection, type ConnectionContext, serveConnection } from './connection/connection.ts';
import { createLimiter, type Limiter } from './connection/limiter.ts';
import { type Listener, type ListenPoint, openListener } from './listen/listeners.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics/metrics.ts';
import { createRateLimit } from './rate-limit.ts';
import type { SecretsSnapshot } from './secrets.ts';

/** The options of a process that serves connections. */
export interface ServiceOptions extends SmtpdSettings, TlsSettings, SmtpTlsSettings, ProxyProtocolSettings {
  readonly terms: SessionTerms;
  /** The backlog of each listening socket, in connections. */
  readonly backlog: number;
  /** How long sessions may continue when the service is stopped, in milliseconds. */
  readonly grace: number;
}

/** What a service needs from its process. */
export interface ServiceParts {
  readonly environment: NodeJS.ProcessEnv;
  readonly limiter: Limiter;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** Listeners, and the connections accepted from them. */
export interface Service {
  /** Replaces the keys and certificates in use. Established TLS sessions are not affected. */
  renew(secrets: SecretsSnapshot): void;
  /** Starts listening; accepted connections wait until `open`. @throws Failure (111). */
  listen(points: readonly ListenPoint[]): Promise<readonly Listener[]>;
  /** Starts serving connections. */
  open(): void;
  /**
   * Shuts down gracefully: stops listening, lets sessions continue for the grace period, and then ends them. A second
   * call ends them at once.
   *
   * @returns a promise that settles when all connections are closed.
   */
  stop(): Promise<void>;
}

/** How many refused connections are sent a closing reply at once; others are closed without one. */
const MAX_CLOSING_REPLIES = 100;

/** Creates a service. It has no certificate until `renew` is called. */
export function createService(options: ServiceOptions, parts: ServiceParts): Service {
  const { metrics, log } = parts;
  const connections = new Set<Connection>();
  const listeners: Listener[] = [];
  /** Accepted before `open` was called; undefined afterwards. */
  let unopened: Socket[] | undefined = [];
  /** How many connections were served; numbers the next. */
  let served = 0;
  let stopped: Promise<void> | undefined;
  let tls: TlsServer | undefined;
  let files = '';

  const environment = withoutUcspiTcp(environmentForSmtpd(parts.environment));
  const rateLimited = createRateLimit();
  const context: ConnectionContext = {
    terms: options.terms,
    implicitTls: options.implicitTls,
    proxies: options.proxies,
    smtpdFor: (ends) => smtpdFor(options.smtpd, ends, environment, options.localHost),
    limiter: parts.limiter,
    closingReplies: createLimiter({
      connections: MAX_CLOSING_REPLIES,
      perAddress: Number.POSITIVE_INFINITY,
      waiting: 0,
    }),
    tls: () => {
      if (tls === undefined) throw new Error('there is no certificate yet');
      return tls;
    },
    metrics,
    log,
    rateLimited,
  };

  function accept(socket: Socket): void {
    if (unopened !== undefined) return void unopened.push(socket);
    served += 1;
    const connection = serveConnection(socket, `${process.pid}-${served}`, context);
    connections.add(connection);
    metrics.setOpen(connections.size);
    void connection.ended.then(() => {
      connections.delete(connection);
      metrics.setOpen(connections.size);
    });
  }

  async function stop(): Promise<void> {
    for (const listener of listeners) listener.close();
    for (const connection of connections) connection.drain();
    const allEnded = Promise.all([...connections].map((connection) => connection.ended));
    await within(options.grace, allEnded);
    stopConnections();
    await allEnded;
  }

  function stopConnections(): void {
    for (const connection of connections) connection.stop();
  }

  return {
    renew: (secrets) => {
      const next = JSON.stringify(secrets.files);
      if (tls === undefined || next !== files) tls = createTlsServer(secrets.files, options.handshake);
      tls.setTicketKeys(Buffer.from(secrets.ticketKey, 'base64'));
      files = next;
    },
    listen: async (points) => {
      const failed = (error: unknown): void =>
        rateLimited((suppressed) => log.warning('accept-failed', { text: errorCode(error), suppressed }));
      for (const point of points) {
        listeners.push(await openListener(point, options.backlog, { connection: accept, failed }));
      }
      return listeners;
    },
    open: () => {
      const accepted = unopened ?? [];
      unopened = undefined;
      for (const socket of accepted) accept(socket);
    },
    stop: () => {
      if (stopped === undefined) stopped = stop();
      else stopConnections();
      return stopped;
    },
  };
}
