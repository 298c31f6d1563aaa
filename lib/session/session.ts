import { deferred } from '../program/deferred.ts';
import type { Reporter } from '../program/reporter.ts';
import { createDialogue, type Verdict } from '../smtp/dialogue.ts';
import { REPLIES } from '../smtp/reply.ts';
import { reportEnd, type StartSmtpd } from '../smtpd/program.ts';
import type { ByteStream } from '../stream/byte-stream.ts';
import type { Child, ChildEnd } from '../stream/child.ts';
import { endAfterOutput, endChild, GRACE } from '../stream/end-child.ts';
import { hangUp, type RelayEnd, relay } from '../stream/relay.ts';
import { converse } from './converse.ts';
import { swallowGreeting } from './greeting.ts';
import type { SessionTerms } from './options.ts';

/** A client with whom TLS has been started. */
export interface TlsClient extends ByteStream {
  /** What the client said in TLS and was read already. */
  readonly early: Uint8Array;
  /** What tells smtpd of the TLS session: environment variables, undefined for one that must not be set. */
  readonly environment: Readonly<Record<string, string | undefined>>;
}

/** Where TLS comes from. The session knows no more of it than this. */
export interface TlsOffer {
  /**
   * Takes the connection over into TLS. The client has been told to begin and its side in cleartext is
   * paused, with nothing left to write; it is closed by this call when the handshake is done.
   *
   * @param abort settles when it is to give up.
   * @throws Error with a message that says why there is no TLS.
   */
  start(abort: Promise<void>): Promise<TlsClient>;
  /** The session goes on in cleartext: TLS will not be asked for. */
  decline(): void;
}

/** One client, one smtpd. */
export interface SessionOptions extends SessionTerms {
  readonly client: ByteStream;
  /** Undefined when the client is in TLS already: then there is nothing to say but what smtpd says. */
  readonly tls: TlsOffer | undefined;
  readonly startSmtpd: StartSmtpd;
  /** See `ConverseOptions`. */
  readonly errorLimitReached?: () => void;
  /** Told of the verdict of the dialogue. */
  readonly concluded?: (verdict: Verdict) => void;
  readonly report: Reporter;
}

/** A session under way. */
export interface Session {
  /** Settles when all is over, no process is left and the client's side is closed. */
  readonly ended: Promise<ChildEnd>;
  /** Passes a signal on to smtpd. The session then ends with it, or without it after a while. */
  terminate(signal: NodeJS.Signals): void;
}

/**
 * How long a client may take nothing of what waits for it, in milliseconds, at most, once it has ended its side
 * or smtpd has ended.
 */
const ENDED_TIMEOUT = 60_000;

/** Runs a session: dialogue, verdict, then relay. */
export function startSession(options: SessionOptions): Session {
  const { client, tls, report } = options;
  const children: Child[] = [];
  // Promises, where an AbortSignal would do: that one costs every start a quarter of a millisecond.
  const { promise: abort, resolve: startAbort } = deferred();
  const { promise: stopping, resolve: startStopping } = deferred();
  let terminated = false;

  function startSmtpd(tlsEnvironment: TlsClient['environment']): Child {
    const child = options.startSmtpd(tlsEnvironment);
    children.push(child);
    return child;
  }

  async function run(): Promise<ChildEnd> {
    const smtpd = startSmtpd({});
    if (tls === undefined) return relayWith(client, smtpd, NOTHING, NOTHING);
    const dialogue = createDialogue(options);
    const verdict = await converse({
      dialogue,
      client,
      smtpd,
      idleTimeout: options.idleTimeout,
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
      // smtpd is told to end as soon as we are, so there is nobody any more to do a handshake for.
      tlsClient = await tls.start(stopping);
    } catch (error) {
      report.warning(`unable to start TLS: ${error instanceof Error ? error.message : String(error)}`);
      return close(client, smtpd);
    }
    if (options.fresh) return refresh(tlsClient, smtpd);
    return relayWith(tlsClient, smtpd, tlsClient.early, dialogue.rest().smtpd);
  }

  /** Puts an smtpd that is told of TLS in the place of the one that was not. */
  async function refresh(tlsClient: TlsClient, stale: Child): Promise<ChildEnd> {
    const staleEnded = endChild(stale);
    const smtpd = startSmtpd(tlsClient.environment);
    const greeting = await swallowGreeting(smtpd, options.idleTimeout, abort);
    let ended: Promise<ChildEnd>;
    if (greeting.forClient === undefined) {
      const what = 'smtpd did not greet a second time';
      if (greeting.fault !== undefined) report.warning(`${what}: ${greeting.fault}`);
      else reportEnd(report, what, await endAfterOutput(smtpd));
      tlsClient.sink.write(REPLIES.smtpdFailed);
      ended = close(tlsClient, smtpd);
    } else {
      ended = relayWith(tlsClient, smtpd, tlsClient.early, greeting.forClient);
    }
    const [end] = await Promise.all([ended, staleEnded]);
    return end;
  }

  async function close(side: ByteStream, smtpd: Child): Promise<ChildEnd> {
    const [end] = await Promise.all([endChild(smtpd), hangUp(side)]);
    return end;
  }

  function relayWith(
    side: ByteStream,
    smtpd: Child,
    fromClient: Uint8Array,
    fromSmtpd: Uint8Array,
  ): Promise<ChildEnd> {
    return relay({
      client: side,
      child: smtpd,
      rest: { client: fromClient, child: fromSmtpd },
      idleTimeout: options.relayIdleTimeout,
      stallTimeout: options.idleTimeout,
      endedTimeout: Math.min(options.idleTimeout, ENDED_TIMEOUT),
      abort,
      closingReply,
    });
  }

  /**
   * A client that waits for smtpd's next word, and will wait in vain, gets a 421 (RFC 5321 section 3.8),
   * unless that would stand in the middle of a line.
   */
  function closingReply({ reason, end, said, atLineStart }: RelayEnd): Buffer | undefined {
    const wasCutShort = end?.signal !== undefined || end?.failure !== undefined;
    if (reason === 'idle-timeout') report.warning('nothing passed for too long, closing');
    else if (reason === 'client-stalled') report.warning('the client does not read its replies, closing');
    else if (reason === 'output-ended' && !wasCutShort && said) return undefined;
    else if (!terminated) reportEnd(report, 'smtpd ended in mid-session', end);
    if (!atLineStart) return undefined;
    if (reason === 'idle-timeout') return REPLIES.tooSlow;
    return terminated ? REPLIES.shuttingDown : REPLIES.smtpdFailed;
  }

  let lastResort: NodeJS.Timeout | undefined;
  const ended = run().finally(() => clearTimeout(lastResort));
  return {
    ended,
    terminate: (signal) => {
      for (const child of children) child.kill(signal);
      if (terminated) return;
      terminated = true;
      startStopping();
      lastResort = setTimeout(() => {
        for (const child of children) child.kill('SIGKILL');
        startAbort();
      }, GRACE);
    },
  };
}

const NOTHING = Buffer.alloc(0);
