import type { Socket } from 'node:net';
import { addressGroup, type Endpoint } from '../../net/address.ts';
import { type Endpoints, endpointsOf, KEEPALIVE } from '../../net/endpoints.ts';
import { formatHostPort } from '../../net/host-port.ts';
import type { ProxyProtocolSettings } from '../../net/options.ts';
import { deferred } from '../../program/deferred.ts';
import { errorCode } from '../../program/failure.ts';
import type { Reporter } from '../../program/reporter.ts';
import type { SessionTerms } from '../../session/options.ts';
import { createTlsOffer, type HandshakeListener, startTls } from '../../session/own-tls.ts';
import { type Session, startSession, type TlsOffer } from '../../session/session.ts';
import type { Verdict } from '../../smtp/dialogue.ts';
import type { StartSmtpd } from '../../smtpd/program.ts';
import type { Smtpd } from '../../smtpd/smtpd.ts';
import { type ByteStream, byteStreamOf, type Sink } from '../../stream/byte-stream.ts';
import { hangUp } from '../../stream/hang-up.ts';
import { HandshakeFailure, type TlsServer } from '../../tls/handshake.ts';
import type { SmtpTlsSettings } from '../../tls/options.ts';
import { describeTls } from '../../ucspi/control.ts';
import type { Log } from '../log.ts';
import type { Metrics } from '../metrics/metrics.ts';
import type { createRateLimit } from '../rate-limit.ts';
import { type Smtpds, smtpdFields } from '../smtpds.ts';
import { REFUSAL_REPLIES, type Refusal, requestAdmission } from './admission.ts';
import type { Limiter } from './limiter.ts';

/** What all connections of a server share. */
export interface ConnectionContext extends ProxyProtocolSettings, Pick<SmtpTlsSettings, 'implicitTls'> {
  readonly terms: SessionTerms;
  /** See `ServiceOptions`. */
  readonly noStarttls: boolean;
  readonly smtpds: Smtpds;
  readonly limiter: Limiter;
  /** Bounds how many refused connections are being sent a closing reply at once. */
  readonly closingReplies: Limiter;
  /** For log lines that clients can cause; see `createRateLimit`. */
  readonly rateLimited: ReturnType<typeof createRateLimit>;
  /** Has the current certificates. */
  tls(): TlsServer;
  readonly metrics: Metrics;
  readonly log: Log;
}

/** A connection that is being served. */
export interface Connection {
  /** Settles when the connection is closed and its smtpd has exited. Never rejects. */
  readonly ended: Promise<void>;
  /** Ends the connection if it still waits for a slot. */
  drain(): void;
  /** Ends the connection: with a 421 where one can be sent, and smtpd by SIGTERM. */
  stop(): void;
}

/**
 * Serves a connection from admission to close.
 *
 * @param id identifies the connection in the log.
 */
export function serveConnection(socket: Socket, id: string, context: ConnectionContext): Connection {
  const startedAt = process.uptime();
  const { limiter, metrics, rateLimited, terms, proxies, implicitTls, noStarttls } = context;
  const { promise: draining, resolve: drain } = deferred();
  const { promise: stopping, resolve: beginStopping } = deferred();
  let log = context.log.with({ id });
  let session: Session | undefined;
  /** The last smtpd that was started. It may have been ended before the session. */
  let smtpd: Smtpd | undefined;
  let isStopping = false;
  /** See `AdmissionResult`. */
  let isProxyOwn = false;
  let isLimitReached = false;
  // Code that reads or writes the socket handles errors itself. Before that, 'close' is enough.
  socket.on('error', () => {});

  async function run(): Promise<void> {
    metrics.connectionAccepted();
    const ends = endpointsOf(socket);
    // The client had disconnected before its address could be read.
    if (ends === undefined) return log.debug('departed');
    log = log.with(() => ({ remote: formatEndpoint(ends.remote) }));
    log.debug('accepted', () => ({ local: formatEndpoint(ends.local) }));
    const slot = limiter.slot(proxies === undefined ? addressGroup(ends.remote.ip) : undefined);
    try {
      const admission = await requestAdmission({
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
        log = log.with({ remote: formatEndpoint(admission.client.remote), proxy: ends.remote.ip });
      }
      if (admission.type === 'refused') return await refuse(admission.why, admission.text);
      isProxyOwn = admission.isProxyOwn;
      await serveClient(admission.client);
    } finally {
      slot.release();
    }
  }

  async function serveClient(ends: Endpoints): Promise<void> {
    const startSmtpd = context.smtpds.startFor(ends, id, {
      started: (started) => {
        // Up to here an idle timeout ends the session of a client that has disappeared. That of smtpd may be long, or absent.
        socket.setKeepAlive(KEEPALIVE.keepAlive, KEEPALIVE.keepAliveInitialDelay);
        smtpd = started;
      },
      notice: ({ about, text }) => (about === 'error-limit' ? errorLimitReached() : report().warning(text)),
      relay: reporterOf('relay'),
      envelope: reporterOf('envelope'),
    });
    if (implicitTls) {
      let client: Awaited<ReturnType<typeof startTls>>;
      try {
        client = await startTls(socket, context.tls(), handshakes(), stopping);
      } catch {
        return;
      }
      const { environment } = client;
      return runSession(client, undefined, (more) => startSmtpd({ ...environment, ...more }));
    }
    const client = byteStreamOf(socket);
    if (noStarttls) return runSession(client, undefined, startSmtpd);
    return runSession(client, createTlsOffer(socket, client, context.tls, handshakes()), startSmtpd);
  }

  async function runSession(
    client: ByteStream,
    tls: TlsOffer | undefined,
    startSmtpd: StartSmtpd,
  ): Promise<void> {
    let verdict = 'none';
    const concluded = (reached: Verdict): void => {
      verdict = reached;
      metrics.verdictReached(reached);
      log.debug('verdict', { verdict });
    };
    // Without a dialogue the session reports no verdict.
    if (tls === undefined) concluded(implicitTls ? 'tls' : 'plaintext');
    session = startSession({
      terms,
      client: { source: client.source, sink: notifyFirstWrite(client.sink, greeted) },
      tls,
      startSmtpd,
      errorLimitReached,
      earlyTalker,
      concluded,
      report: {
        fatal: (text) => report().fatal(text),
        warning: (text) => report().warning(text),
        info: (text) => report().info(text),
      },
    });
    if (isStopping) session.terminate('SIGTERM');
    await session.ended;
    const seconds = process.uptime() - startedAt;
    const end = await smtpd?.ended;
    if (end === undefined) metrics.sessionWithoutSmtpd();
    else metrics.smtpdEnded(end.status);
    metrics.sessionEnded(seconds);
    log.info('end', () => ({
      verdict,
      ...smtpdFields(smtpd),
      status: end?.status,
      signal: end?.signal,
      in: socket.bytesRead,
      out: socket.bytesWritten,
      seconds: seconds.toFixed(3),
    }));
  }

  /** For lines about the session: they name the current smtpd. */
  function report(): Reporter {
    const named = log.with(smtpdFields(smtpd));
    if (smtpd !== undefined && context.smtpds.arePrograms) return named.reporter();
    // A client that costs no process could cause thousands of lines a second.
    const warning = (text: string): void =>
      rateLimited((suppressed) => named.warning('session', { text, suppressed }));
    return { ...named.reporter(), fatal: warning, warning };
  }

  /** For lines that a client can cause at no cost of its own. They name the current smtpd, if there is one. */
  function reporterOf(event: 'relay' | 'envelope'): Reporter {
    const warning = (text: string): void =>
      rateLimited((suppressed) => log.warning(event, { smtpd: smtpd?.label, text, suppressed }));
    return {
      fatal: warning,
      warning,
      info: (text) => log.info(event, { smtpd: smtpd?.label, text }),
    };
  }

  /** Both the dialogue and an smtpd behind it may count to the limit. */
  function errorLimitReached(): void {
    if (isLimitReached) return;
    isLimitReached = true;
    metrics.errorLimitReached();
    rateLimited((suppressed) => log.warning('error-limit', { suppressed }));
  }

  function earlyTalker(): void {
    metrics.earlyTalker();
    rateLimited((suppressed) => log.warning('early-talker', { suppressed }));
  }

  function greeted(): void {
    metrics.greeted(process.uptime() - startedAt);
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
        log.info('tls', () => ({
          text: describeTls(variables),
          resumed: tls.isSessionReused() ? 'yes' : 'no',
        }));
      },
      failed: (error) => {
        metrics.handshakeFailed(error instanceof HandshakeFailure ? error.reason : 'other');
        // A session reports the failure itself.
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
    // A graceful close takes time; the limit keeps refused clients from exhausting the server.
    const slot = context.closingReplies.slot(undefined);
    if ((await slot.admission) === 'admitted') {
      const client = byteStreamOf(socket);
      client.sink.write(reply());
      await hangUp(client);
    }
    slot.release();
  }

  async function runSafely(): Promise<void> {
    try {
      await run();
    } catch (error) {
      // A defect in one connection must not end the sessions of others.
      log.warning('failed', { text: errorCode(error) });
    }
    socket.destroy();
    metrics.received(socket.bytesRead);
    metrics.sent(socket.bytesWritten);
  }

  return {
    ended: runSafely(),
    drain,
    stop: () => {
      drain();
      isStopping = true;
      beginStopping();
      session?.terminate('SIGTERM');
    },
  };
}

function formatEndpoint({ ip, port }: Endpoint): string {
  return formatHostPort(ip, port);
}

/** Wraps a Sink so that its first write calls `notify`. */
function notifyFirstWrite(sink: Sink, notify: () => void): Sink {
  let isFirst = true;
  return {
    listen: sink.listen,
    write: (bytes) => {
      if (isFirst) notify();
      isFirst = false;
      return sink.write(bytes);
    },
    end: sink.end,
    unsent: sink.unsent,
    close: sink.close,
  };
}
