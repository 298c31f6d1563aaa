import type { Socket } from 'node:net';
import type { ProxyProtocolSettings } from '../net/options.ts';
import { createCollection } from '../program/collection.ts';
import { deferred } from '../program/deferred.ts';
import { explain } from '../program/explain.ts';
import { within } from '../stream/time.ts';
import { createTlsServer, type TlsServer } from '../tls/handshake.ts';
import type { SmtpTlsSettings, TlsSettings } from '../tls/options.ts';
import { type Connection, type ConnectionContext, serveConnection } from './connection/connection.ts';
import { createLimiter, type Limiter } from './connection/limiter.ts';
import { type Listener, type ListenPoint, openListener } from './listen/listeners.ts';
import { createRateLimit } from './rate-limit.ts';
import type { SecretsSnapshot } from './secrets.ts';
import { createSmtpds, type SmtpdsOptions, type SmtpdsParts } from './smtpds.ts';

/** The options of a process that serves connections. */
export interface ServiceOptions extends SmtpdsOptions, TlsSettings, SmtpTlsSettings, ProxyProtocolSettings {
  /** The backlog of each listening socket, in connections. */
  readonly backlog: number;
  /** Clients are served without TLS, and without a dialogue in front of smtpd. */
  readonly noStarttls: boolean;
  /** How long sessions may continue when the service is stopped, in milliseconds. */
  readonly grace: number;
}

/** What a service needs from its process. */
export interface ServiceParts extends SmtpdsParts {
  readonly limiter: Limiter;
}

/** Listeners, and the connections accepted from them. */
export interface Service {
  /** Replaces the keys and certificates in use. Established TLS sessions are not affected. */
  renew(secrets: SecretsSnapshot): void;
  /**
   * Starts listening; accepted connections wait until `open`. Never settles if `stop` was called before.
   *
   * @throws Failure (111).
   */
  listen(points: readonly ListenPoint[]): Promise<readonly Listener[]>;
  /** Learns how smtpd introduces itself, with `--on-demand`; now and every hour. Settles when that has been tried. */
  learn(): Promise<void>;
  /** Starts serving connections. */
  open(): void;
  /**
   * Shuts down gracefully: stops listening, lets sessions continue for the grace period, and then ends them. A second
   * call ends them at once.
   *
   * @returns a promise that settles when all connections are closed and no smtpd is left.
   */
  stop(): Promise<void>;
}

/** How many refused connections are sent a closing reply at once; others are closed without one. */
const MAX_CLOSING_REPLIES = 100;

/** Creates a service. It has no certificate until `renew` is called. */
export function createService(options: ServiceOptions, parts: ServiceParts): Service {
  const { metrics, log } = parts;
  const connections = createCollection<Connection>();
  const listeners: Listener[] = [];
  /** Accepted before `open` was called; undefined afterwards. */
  let unopened: Socket[] | undefined = [];
  /** How many connections were served; numbers the next. */
  let served = 0;
  let stopped: Promise<void> | undefined;
  let tls: TlsServer | undefined;
  let files = '';

  const smtpds = createSmtpds(options, parts);
  const rateLimited = createRateLimit();
  const context: ConnectionContext = {
    terms: options.terms,
    implicitTls: options.implicitTls,
    noStarttls: options.noStarttls,
    proxies: options.proxies,
    smtpds,
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
    const remove = connections.add(connection);
    metrics.setOpen(connections.size());
    void connection.ended.then(() => {
      remove();
      metrics.setOpen(connections.size());
    });
  }

  async function stop(): Promise<void> {
    for (const listener of listeners) listener.close();
    const learned = smtpds.close();
    for (const connection of connections.all()) connection.drain();
    const allEnded = Promise.all(connections.all().map((connection) => connection.ended));
    await within(options.grace, allEnded);
    stopConnections();
    await Promise.all([allEnded, learned]);
  }

  function stopConnections(): void {
    for (const connection of connections.all()) connection.stop();
  }

  return {
    renew: (secrets) => {
      smtpds.renew(secrets);
      if (secrets.files === undefined) return;
      const next = JSON.stringify(secrets.files);
      if (tls === undefined || next !== files) tls = createTlsServer(secrets.files, options.handshake);
      tls.setTicketKeys(Buffer.from(secrets.ticketKey, 'base64'));
      files = next;
    },
    listen: async (points) => {
      if (stopped !== undefined) return deferred<never>().promise;
      const failed = (error: unknown): void =>
        rateLimited((suppressed) =>
          log.warning('accept-failed', { text: explain('listen', error), suppressed }),
        );
      for (const point of points) {
        listeners.push(await openListener(point, options.backlog, { connection: accept, failed }));
      }
      return listeners;
    },
    learn: smtpds.learn,
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
