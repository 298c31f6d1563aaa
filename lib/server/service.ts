import type { Socket } from 'node:net';
import { withoutUcspiTcp } from '../net/endpoints.ts';
import type { ProxyProtocolSettings } from '../net/options.ts';
import { errorCode } from '../program/failure.ts';
import type { SessionTerms } from '../session/options.ts';
import { environmentForSmtpd, smtpdFor } from '../smtpd/environment.ts';
import type { SmtpdSettings } from '../smtpd/options.ts';
import { after } from '../stream/time.ts';
import { createTlsServer, type TlsServer } from '../tls/handshake.ts';
import type { SmtpTlsSettings, TlsSettings } from '../tls/options.ts';
import { type Connection, type ConnectionContext, serveConnection } from './connection/connection.ts';
import { createLimiter, type Limiter } from './connection/limiter.ts';
import { type Listener, type ListenPoint, openListener } from './listen/listeners.ts';
import type { Log } from './log.ts';
import type { Metrics } from './metrics/metrics.ts';
import { createRateLimit } from './rate-limit.ts';
import type { SecretsSnapshot } from './secrets.ts';

/** What a process that serves connections is told. */
export interface ServiceOptions extends SmtpdSettings, TlsSettings, SmtpTlsSettings, ProxyProtocolSettings {
  readonly terms: SessionTerms;
  readonly backlog: number;
  /** How long sessions may go on when the service is stopped, in milliseconds. */
  readonly grace: number;
}

/** What it serves with. */
export interface ServiceParts {
  readonly environment: NodeJS.ProcessEnv;
  readonly limiter: Limiter;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** Listeners, and the connections that came in through them. */
export interface Service {
  /** Takes keys and certificates into use: connections that have TLS already keep it. */
  renew(secrets: SecretsSnapshot): void;
  /** Listens; connections wait until `open`. @throws Failure (111). */
  listen(points: readonly ListenPoint[]): Promise<readonly Listener[]>;
  /** Lets connections in. */
  open(): void;
  /**
   * Takes no more connections, lets those that are there go on for the time of grace, and ends them then.
   * Called again it does not wait any longer.
   *
   * @returns settles when none is left.
   */
  stop(): Promise<void>;
}

/** How many who are refused are told so at once; others are closed without a word. */
const MAX_CLOSING_REPLIES = 100;

/** Makes a service. It has no certificate until `renew`. */
export function createService(options: ServiceOptions, parts: ServiceParts): Service {
  const { metrics, log } = parts;
  const connections = new Set<Connection>();
  const listeners: Listener[] = [];
  let early: Socket[] | undefined = [];
  let served = 0;
  let stopping: Promise<void> | undefined;
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
    if (early !== undefined) return void early.push(socket);
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
    const all = Promise.all([...connections].map((connection) => connection.ended));
    const limit = after(options.grace);
    await Promise.race([all, limit.passed]);
    limit.cancel();
    terminate();
    await all;
  }

  function terminate(): void {
    for (const connection of connections) connection.terminate();
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
      const waiting = early ?? [];
      early = undefined;
      for (const socket of waiting) accept(socket);
    },
    stop: () => {
      if (stopping === undefined) stopping = stop();
      else terminate();
      return stopping;
    },
  };
}
