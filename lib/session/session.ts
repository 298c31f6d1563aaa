import { createCollection } from '../program/collection.ts';
import { deferred } from '../program/deferred.ts';
import type { Reporter } from '../program/reporter.ts';
import { createDialogue, type Verdict } from '../smtp/dialogue.ts';
import { REPLIES } from '../smtp/reply.ts';
import { holdOpening } from '../smtpd/hold-opening.ts';
import { reportEnd, type StartSmtpd } from '../smtpd/program.ts';
import { endAfterOutput, endSmtpd, GRACE, type Smtpd, type SmtpdEnd } from '../smtpd/smtpd.ts';
import type { ByteStream } from '../stream/byte-stream.ts';
import { hangUp } from '../stream/hang-up.ts';
import { converse } from './converse.ts';
import { delayGreeting } from './greet-delay.ts';
import type { SessionTerms } from './options.ts';
import { type RelayEnd, relay } from './relay.ts';

/** A client with whom TLS has been started. */
export interface TlsClient extends ByteStream {
  /** Bytes that the client sent in TLS and that have been read already. */
  readonly early: Uint8Array;
  /** Environment variables that describe the TLS session to smtpd; undefined for one that must not be set. */
  readonly environment: Readonly<Record<string, string | undefined>>;
}

/** The source of TLS, as far as the session is concerned. */
export interface TlsOffer {
  /**
   * Starts TLS on the connection. The client has been sent the 220, and its cleartext side is paused with
   * nothing left to write; this call closes it when the handshake is done.
   *
   * @param abort settles to give up.
   * @throws Error with the reason if there is no TLS.
   */
  start(abort: Promise<void>): Promise<TlsClient>;
  /** The session continues in cleartext: `start` will not be called. */
  decline(): void;
}

/** The parts and settings of a session between one client and one smtpd. */
export interface SessionOptions {
  readonly terms: SessionTerms;
  readonly client: ByteStream;
  /** Undefined if the client is in TLS already: then there is no dialogue, only the relay. */
  readonly tls: TlsOffer | undefined;
  readonly startSmtpd: StartSmtpd;
  /** See `ConverseOptions`. */
  readonly errorLimitReached?: () => void;
  /** See `GreetDelayOptions`. */
  readonly earlyTalker?: () => void;
  /** Called with the verdict of the dialogue; `close` if the session ended before the greeting was due. */
  readonly concluded?: (verdict: Verdict) => void;
  readonly report: Reporter;
}

/** A running session. */
export interface Session {
  /** Settles when no process is left and the client's side is closed. */
  readonly ended: Promise<SmtpdEnd>;
  /** Passes a signal on to smtpd. The session ends with smtpd, or is aborted after `GRACE` milliseconds. */
  terminate(signal: NodeJS.Signals): void;
}

/**
 * The upper bound, in milliseconds, on how long a client may leave pending bytes unread once it has ended its side
 * or smtpd has exited.
 */
const ENDED_TIMEOUT = 60_000;

/** Starts a session: greeting delay, dialogue, verdict, then relay. */
export function startSession(options: SessionOptions): Session {
  const { terms, client, tls, report } = options;
  const running = createCollection<Smtpd>();
  // Promises rather than an AbortSignal, which adds a quarter of a millisecond to every start.
  const { promise: abort, resolve: startAbort } = deferred();
  const { promise: stopping, resolve: startStopping } = deferred();
  let terminated = false;

  function startSmtpd(tlsEnvironment: TlsClient['environment']): Smtpd {
    const smtpd = options.startSmtpd(tlsEnvironment);
    void smtpd.ended.then(running.add(smtpd));
    return smtpd;
  }

  async function run(): Promise<SmtpdEnd> {
    const { greetDelay } = terms;
    const early = greetDelay > 0 ? await delayGreeting({ ...options, greetDelay }, stopping) : undefined;
    if (early !== undefined) {
      if (tls !== undefined) options.concluded?.('close');
      return early;
    }
    const smtpd = startSmtpd({});
    if (tls === undefined) return relayWith(client, smtpd, NOTHING, NOTHING);
    const dialogue = createDialogue(terms);
    const verdict = await converse({
      dialogue,
      client,
      smtpd,
      idleTimeout: terms.idleTimeout,
      stopping,
      abort,
      errorLimitReached: options.errorLimitReached,
      report,
    });
    options.concluded?.(verdict);
    if (verdict === 'close') return close(client, smtpd);
    if (verdict === 'plaintext') {
      tls.decline();
      return relayWith(client, smtpd, dialogue.rest().client, dialogue.rest().smtpd);
    }
    let tlsClient: TlsClient;
    try {
      // Already on the first signal: smtpd gets it too, so a handshake would serve no session.
      tlsClient = await tls.start(stopping);
    } catch (error) {
      report.warning(`unable to start TLS: ${error instanceof Error ? error.message : String(error)}`);
      return close(client, smtpd);
    }
    const isStale = terms.fresh && smtpd.renew?.(tlsClient.environment) !== true;
    if (isStale) return refresh(tlsClient, endSmtpd(smtpd));
    smtpd.tlsStarted?.(tlsClient.environment);
    return relayWith(tlsClient, smtpd, tlsClient.early, dialogue.rest().smtpd);
  }

  /**
   * Starts a new smtpd, whose environment describes the TLS session.
   *
   * @param staleEnded settles when the one before has ended.
   */
  async function refresh(tlsClient: TlsClient, staleEnded: Promise<SmtpdEnd>): Promise<SmtpdEnd> {
    const smtpd = startSmtpd(tlsClient.environment);
    const { outcome, forClient } = await holdOpening(smtpd, [], terms.idleTimeout, abort);
    let ended: Promise<SmtpdEnd>;
    if (outcome.type === 'broken') {
      const what = 'unable to read the greeting of the second smtpd';
      if (outcome.why !== undefined) report.warning(`${what}: ${outcome.why}`);
      else reportEnd(report, what, await endAfterOutput(smtpd));
      tlsClient.sink.write(REPLIES.smtpdFailed);
      ended = close(tlsClient, smtpd);
    } else {
      ended = relayWith(tlsClient, smtpd, tlsClient.early, forClient);
    }
    const [end] = await Promise.all([ended, staleEnded]);
    return end;
  }

  async function close(side: ByteStream, smtpd: Smtpd): Promise<SmtpdEnd> {
    const [end] = await Promise.all([endSmtpd(smtpd), hangUp(side)]);
    return end;
  }

  function relayWith(
    side: ByteStream,
    smtpd: Smtpd,
    fromClient: Uint8Array,
    fromSmtpd: Uint8Array,
  ): Promise<SmtpdEnd> {
    return relay({
      client: side,
      smtpd,
      rest: { client: fromClient, smtpd: fromSmtpd },
      idleTimeout: terms.relayIdleTimeout,
      stallTimeout: terms.idleTimeout,
      endedTimeout: Math.min(terms.idleTimeout, ENDED_TIMEOUT),
      abort,
      closingReply: (relayEnd) => {
        if (isNormalEnd(relayEnd)) return undefined;
        reportRelayEnd(report, relayEnd, terminated);
        return chooseClosingReply(relayEnd, terminated);
      },
    });
  }

  let abortTimer: NodeJS.Timeout | undefined;
  const ended = run().finally(() => clearTimeout(abortTimer));
  return {
    ended,
    terminate: (signal) => {
      for (const smtpd of running.all()) smtpd.kill(signal);
      if (terminated) return;
      terminated = true;
      startStopping();
      abortTimer = setTimeout(() => {
        for (const smtpd of running.all()) smtpd.kill('SIGKILL');
        startAbort();
      }, GRACE);
    },
  };
}

const NOTHING = Buffer.alloc(0);

/** Whether smtpd has ended the session itself: it sent output and was neither killed nor unable to start. */
function isNormalEnd({ reason, end, hasOutput }: RelayEnd): boolean {
  return reason === 'output-ended' && hasOutput && end?.signal === undefined && end?.failure === undefined;
}

/** @param terminated whether this process was asked to end: then the exit of smtpd is not reported. */
function reportRelayEnd(report: Reporter, { reason, end }: RelayEnd, terminated: boolean): void {
  if (reason === 'idle-timeout') report.warning('relay idle timeout, closing');
  else if (reason === 'client-stalled') report.warning('the client does not read its replies, closing');
  else if (!terminated) reportEnd(report, 'smtpd exited mid-session', end);
}

/**
 * The 421 for a client that still expects a reply from smtpd (RFC 5321 section 3.8); undefined in the middle of a
 * line.
 */
function chooseClosingReply({ reason, atLineStart }: RelayEnd, terminated: boolean): Buffer | undefined {
  if (!atLineStart) return undefined;
  if (reason === 'idle-timeout') return REPLIES.tooSlow;
  return terminated ? REPLIES.shuttingDown : REPLIES.smtpdFailed;
}
