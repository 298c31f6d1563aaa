import type { Socket } from 'node:net';
import { deferred } from '../program/deferred.ts';
import { errorCode } from '../program/failure.ts';
import { type Session, type SessionOptions, startSession, type TlsOffer } from '../session/session.ts';
import type { StartSmtpd } from '../session/smtpd.ts';
import type { Verdict } from '../smtp/dialogue.ts';
import { REPLIES } from '../smtp/reply.ts';
import { type ByteStream, type Sink, sinkOfStream, sourceOfStream } from '../stream/byte-stream.ts';
import { hangUp } from '../stream/relay.ts';
import { after } from '../stream/time.ts';
import { HandshakeFailure, type TlsServer } from '../tls/handshake.ts';
import { describeTls } from '../ucspi/control.ts';
import { addressGroup } from './address.ts';
import { watchDeparture } from './departure.ts';
import { type Endpoints, endpointsOf } from './endpoints.ts';
import type { Admission, Gate, Visit } from './gate.ts';
import type { Log } from './log.ts';
import type { Refusal } from './metrics/families.ts';
import type { Metrics } from './metrics/metrics.ts';
import { readProxyHeader } from './proxy-protocol/header.ts';
import { type HandshakeListener, offerTls, startTls } from './tls-offer.ts';

/** What holds for all connections of a server. */
export interface House {
  readonly terms: Pick<
    SessionOptions,
    'requireTls' | 'plaintextAuth' | 'fresh' | 'dialogueSilence' | 'relaySilence'
  > & {
    /** TLS from the first byte on, as on port 465. */
    readonly implicitTls: boolean;
    /** From where a PROXY header is asked for and believed; undefined when none is. */
    readonly proxies: { contains(ip: string): boolean } | undefined;
  };
  /** How to start the smtpd of a connection. */
  smtpdFor(ends: Endpoints): StartSmtpd;
  readonly gate: Gate;
  /** Bounds how many are told at once that there is no service for them. */
  readonly farewells: Gate;
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
  dismiss(): void;
  /** Ends it: with a 421 where one can be said, and smtpd by SIGTERM. */
  terminate(): void;
}

/** Serves a connection from its beginning to its end. */
export function serveConnection(socket: Socket, id: string, house: House): Connection {
  const begun = process.uptime();
  const { gate, metrics, terms } = house;
  const { promise: dismissed, resolve: dismiss } = deferred();
  const { promise: ending, resolve: end } = deferred();
  let log = house.log.with({ id });
  let session: Session | undefined;
  let isEnding = false;
  /** It is a proxy's own: to see whether we are alive, as a rule, and it hangs up when it has seen that. */
  let isProxys = false;
  // Whoever reads or writes it hears of an error by itself. Until there is one, its end will tell.
  socket.on('error', () => {});

  async function run(): Promise<void> {
    const ends = endpointsOf(socket);
    if (ends === undefined) return void socket.destroy();
    metrics.connectionAccepted();
    log = log.with({ remote: nameOf(ends) });
    log.debug('accepted', { local: `${ends.local.ip}:${ends.local.port}` });
    if (terms.proxies?.contains(ends.remote.ip) === false) return refuse('untrusted');
    const visit = gate.visit(terms.proxies === undefined ? addressGroup(ends.remote.ip) : undefined);
    try {
      const refusal = await enter(visit);
      if (refusal === 'departed') return log.info('departed');
      if (refusal !== undefined) return await refuse(refusal);
      const client = terms.proxies === undefined ? ends : await identify(ends, visit);
      if (client !== undefined) await serve(client);
    } finally {
      visit.leave();
    }
  }

  async function enter(visit: Visit): Promise<Refusal | 'departed' | undefined> {
    // Most need not wait. What is settled already wins here.
    const outcome = (await Promise.race([visit.admission, undefined])) ?? (await wait(visit));
    return outcome === 'in' ? undefined : outcome;
  }

  async function wait(visit: Visit): Promise<Admission | Refusal | 'departed'> {
    const limit = after(terms.dialogueSilence);
    const watch = watchDeparture(socket);
    const outcome = await Promise.race([
      visit.admission,
      watch.departed.then(() => 'departed' as const),
      limit.passed.then(() => 'wait-timeout' as const),
      dismissed.then(() => 'stopping' as const),
    ]);
    watch.stop();
    limit.cancel();
    return outcome;
  }

  /** Learns from a proxy who the client is; undefined when the connection is refused. */
  async function identify(ends: Endpoints, visit: Visit): Promise<Endpoints | undefined> {
    let client: Endpoints;
    try {
      const named = await readProxyHeader(socket, ending);
      isProxys = named === undefined;
      client = named ?? ends;
    } catch (error) {
      await refuse('proxy-header', errorCode(error));
      return undefined;
    }
    log = log.with({ remote: nameOf(client), proxy: ends.remote.ip });
    // Who keeps the gate may be gone, and never answer.
    const answer = await Promise.race([
      visit.claim(addressGroup(client.remote.ip)),
      ending.then(() => 'stopping' as const),
    ]);
    if (answer === true) return client;
    await refuse(answer === false ? 'per-address' : answer);
    return undefined;
  }

  async function serve(ends: Endpoints): Promise<void> {
    const startSmtpd = house.smtpdFor(ends);
    if (terms.implicitTls) {
      let client: Awaited<ReturnType<typeof startTls>>;
      try {
        client = await startTls(socket, house.tls(), handshakes(), ending);
      } catch {
        return;
      }
      const { environment } = client;
      return converse(client, undefined, (more) => startSmtpd({ ...environment, ...more }));
    }
    const client = { source: sourceOfStream(socket), sink: sinkOfStream(socket) };
    return converse(client, offerTls(socket, client, house.tls, handshakes()), startSmtpd);
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
      client: { source: client.source, sink: tellFirst(client.sink, greeted) },
      tls,
      startSmtpd,
      concluded,
      report: log.reporter(),
    });
    if (isEnding) session.terminate('SIGTERM');
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
        if (session === undefined)
          log[isProxys ? 'debug' : 'warning']('tls-failed', { text: errorCode(error) });
      },
    };
  }

  async function refuse(why: Refusal, text?: string): Promise<void> {
    metrics.connectionRefused(why);
    log.warning('refused', { why, text });
    const reply = FAREWELLS[why];
    if (reply === undefined || terms.implicitTls) return;
    // To close in good order takes its time, and must not become a way to fill the server.
    const visit = house.farewells.visit(undefined);
    if ((await visit.admission) === 'in') {
      const client = { source: sourceOfStream(socket), sink: sinkOfStream(socket) };
      client.sink.write(reply());
      await hangUp(client);
    }
    visit.leave();
  }

  const ended = run().finally(() => {
    socket.destroy();
    metrics.received(socket.bytesRead);
    metrics.sent(socket.bytesWritten);
  });
  return {
    ended,
    dismiss,
    terminate: () => {
      dismiss();
      isEnding = true;
      end();
      session?.terminate('SIGTERM');
    },
  };
}

/** What is said to those who are refused; nothing to those who speak another protocol. */
const FAREWELLS: Partial<Readonly<Record<Refusal, () => Buffer>>> = {
  'per-address': () => REPLIES.tooManyFromAddress,
  'no-room': () => REPLIES.tooBusy,
  'wait-timeout': () => REPLIES.tooBusy,
  stopping: () => REPLIES.shuttingDown,
};

function nameOf({ remote }: Endpoints): string {
  return remote.ip.includes(':') ? `[${remote.ip}]:${remote.port}` : `${remote.ip}:${remote.port}`;
}

/** A Sink that tells of the first that is written to it. */
function tellFirst(sink: Sink, tell: () => void): Sink {
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
