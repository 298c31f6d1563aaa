import type { Socket } from 'node:net';
import { addressGroup, type Endpoint, formatHostPort } from '../../net/address.ts';
import { type Endpoints, endpointsOf } from '../../net/endpoints.ts';
import type { ProxyProtocolSettings } from '../../net/options.ts';
import { deferred } from '../../program/deferred.ts';
import { errorCode } from '../../program/failure.ts';
import type { SessionTerms } from '../../session/options.ts';
import { createTlsOffer, type HandshakeListener, startTls } from '../../session/own-tls.ts';
import { type Session, startSession, type TlsOffer } from '../../session/session.ts';
import type { Verdict } from '../../smtp/dialogue.ts';
import { REPLIES } from '../../smtp/reply.ts';
import type { StartSmtpd } from '../../smtpd/program.ts';
import { type ByteStream, type Sink, sinkOfStream, sourceOfStream } from '../../stream/byte-stream.ts';
import { hangUp } from '../../stream/relay.ts';
import { HandshakeFailure, type TlsServer } from '../../tls/handshake.ts';
import type { SmtpTlsSettings } from '../../tls/options.ts';
import { describeTls } from '../../ucspi/control.ts';
import type { Log } from '../log.ts';
import type { Metrics } from '../metrics/metrics.ts';
import type { createRateLimit } from '../rate-limit.ts';
import { enter, type Refusal } from './admission.ts';
import type { Limiter } from './limiter.ts';

/** What holds for all connections of a server. */
export interface ConnectionContext extends ProxyProtocolSettings, Pick<SmtpTlsSettings, 'implicitTls'> {
  readonly terms: SessionTerms;
  /** How to start the smtpd of a connection. */
  smtpdFor(ends: Endpoints): StartSmtpd;
  readonly limiter: Limiter;
  /** Bounds how many are told at once that there is no service for them. */
  readonly closingReplies: Limiter;
  /** See `createRateLimit`: for what strangers can have us say. */
  readonly rateLimited: ReturnType<typeof createRateLimit>;
  /** With the certificates of now. */
  tls(): TlsServer;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** A connection that is served. */
export interface Connection {
  /** Settles when it is closed and no process is left. */
  readonly ended: Promise<void>;
  /** Ends it if it still waits for its turn. */
  drain(): void;
  /** Ends it: with a 421 where one can be said, and smtpd by SIGTERM. */
  terminate(): void;
}

/** Serves a connection from its beginning to its end. */
export function serveConnection(socket: Socket, id: string, context: ConnectionContext): Connection {
  const begun = process.uptime();
  const { limiter, metrics, rateLimited, terms, proxies, implicitTls } = context;
  const { promise: draining, resolve: drain } = deferred();
  const { promise: stopping, resolve: end } = deferred();
  let log = context.log.with({ id });
  let session: Session | undefined;
  let isStopping = false;
  /** See `AdmissionResult`. */
  let isProxyOwn = false;
  // Whoever reads or writes it hears of an error by itself. Until there is one, its end will tell.
  socket.on('error', () => {});

  async function run(): Promise<void> {
    metrics.connectionAccepted();
    const ends = endpointsOf(socket);
    // The client has gone before we could ask.
    if (ends === undefined) return log.debug('departed');
    log = log.with({ remote: nameOf(ends.remote) });
    log.debug('accepted', { local: nameOf(ends.local) });
    const slot = limiter.slot(proxies === undefined ? addressGroup(ends.remote.ip) : undefined);
    try {
      const admission = await enter({
        socket,
        ends,
        slot,
        proxies,
        waitTimeout: terms.idleTimeout,
        draining,
        stopping,
      });
      if (admission.type === 'departed') return log.info('departed');
      if (proxies !== undefined && admission.client !== undefined) {
        log = log.with({ remote: nameOf(admission.client.remote), proxy: ends.remote.ip });
      }
      if (admission.type === 'refused') return await refuse(admission.why, admission.text);
      isProxyOwn = admission.isProxyOwn;
      await serve(admission.client);
    } finally {
      slot.leave();
    }
  }

  async function serve(ends: Endpoints): Promise<void> {
    const startSmtpd = context.smtpdFor(ends);
    if (implicitTls) {
      let client: Awaited<ReturnType<typeof startTls>>;
      try {
        client = await startTls(socket, context.tls(), handshakes(), stopping);
      } catch {
        return;
      }
      const { environment } = client;
      return converse(client, undefined, (more) => startSmtpd({ ...environment, ...more }));
    }
    const client = { source: sourceOfStream(socket), sink: sinkOfStream(socket) };
    return converse(client, createTlsOffer(socket, client, context.tls, handshakes()), startSmtpd);
  }

  async function converse(
    client: ByteStream,
    tls: TlsOffer | undefined,
    startSmtpd: StartSmtpd,
  ): Promise<void> {
    let verdict = 'none';
    const concluded = (what: Verdict): void => {
      verdict = what;
      metrics.verdictReached(what);
      log.debug('verdict', { verdict });
    };
    // Where there is no dialogue nobody else will say so.
    if (tls === undefined) concluded('tls');
    session = startSession({
      ...terms,
      client: { source: client.source, sink: notifyFirst(client.sink, greeted) },
      tls,
      startSmtpd,
      errorLimitReached: () => {
        metrics.errorLimitReached();
        rateLimited((suppressed) => log.warning('error-limit', { suppressed }));
      },
      concluded,
      report: log.reporter(),
    });
    if (isStopping) session.terminate('SIGTERM');
    const { status, signal } = await session.ended;
    const seconds = process.uptime() - begun;
    metrics.smtpdEnded(status);
    metrics.sessionEnded(seconds);
    log.info('end', {
      verdict,
      status,
      signal,
      in: socket.bytesRead,
      out: socket.bytesWritten,
      seconds: seconds.toFixed(3),
    });
  }

  function greeted(): void {
    metrics.greeted(process.uptime() - begun);
  }

  function handshakes(): HandshakeListener {
    return {
      done: (variables, tls, seconds) => {
        metrics.handshakeDone({
          protocol: variables.get('SSL_PROTOCOL'),
          cipher: variables.get('SSL_CIPHER'),
          resumed: tls.isSessionReused(),
          seconds,
        });
        log.info('tls', { text: describeTls(variables), resumed: tls.isSessionReused() ? 'yes' : 'no' });
      },
      failed: (error) => {
        metrics.handshakeFailed(error instanceof HandshakeFailure ? error.reason : 'other');
        // In a session it is the session that says so.
        if (session !== undefined) return;
        if (isProxyOwn) return log.debug('tls-failed', { text: errorCode(error) });
        rateLimited((suppressed) => log.warning('tls-failed', { text: errorCode(error), suppressed }));
      },
      exceeded: (why) => rateLimited((suppressed) => log.warning('tls-closed', { text: why, suppressed })),
    };
  }

  async function refuse(why: Refusal, text?: string): Promise<void> {
    metrics.connectionRefused(why);
    rateLimited((suppressed) => log.warning('refused', { why, text, suppressed }));
    const reply = REFUSAL_REPLIES[why];
    if (reply === undefined || implicitTls) return;
    // To close in good order takes its time, and must not become a way to fill the server.
    const slot = context.closingReplies.slot(undefined);
    if ((await slot.admission) === 'in') {
      const client = { source: sourceOfStream(socket), sink: sinkOfStream(socket) };
      client.sink.write(reply());
      await hangUp(client);
    }
    slot.leave();
  }

  async function runSafely(): Promise<void> {
    try {
      await run();
    } catch (error) {
      // Nobody has thought of it, but it is no reason to end the sessions of others.
      log.fatal('failed', { text: errorCode(error) });
    }
    socket.destroy();
    metrics.received(socket.bytesRead);
    metrics.sent(socket.bytesWritten);
  }

  return {
    ended: runSafely(),
    drain,
    terminate: () => {
      drain();
      isStopping = true;
      end();
      session?.terminate('SIGTERM');
    },
  };
}

/** What is said to those who are refused; nothing to those who speak another protocol. */
const REFUSAL_REPLIES: Partial<Readonly<Record<Refusal, () => Buffer>>> = {
  'per-address': () => REPLIES.tooManyFromAddress,
  'no-room': () => REPLIES.tooBusy,
  'wait-timeout': () => REPLIES.tooBusy,
  stopping: () => REPLIES.shuttingDown,
};

function nameOf({ ip, port }: Endpoint): string {
  return formatHostPort(ip, port);
}

/** A Sink that tells of the first that is written to it. */
function notifyFirst(sink: Sink, tell: () => void): Sink {
  let isFirst = true;
  return {
    ...sink,
    write: (bytes) => {
      if (isFirst) tell();
      isFirst = false;
      return sink.write(bytes);
    },
  };
}
