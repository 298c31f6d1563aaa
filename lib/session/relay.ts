import { deferred } from '../program/deferred.ts';
import { endAfterOutput, endSmtpd, ORPHAN_IDLE_TIMEOUT, type Smtpd, type SmtpdEnd } from '../smtpd/smtpd.ts';
import type { ByteStream } from '../stream/byte-stream.ts';
import { type FlowEnd, flow } from '../stream/flow.ts';
import { hangUp } from '../stream/hang-up.ts';
import { type IdleWatch, watchIdle } from '../stream/time.ts';

/**
 * Why smtpd sends nothing more: its output has ended; the idle timeout has passed; the client has not taken
 * the bytes that wait for it in time; or the relay was aborted.
 */
export type RelayEndReason = 'output-ended' | 'idle-timeout' | 'client-stalled' | 'aborted';

/** The end of what smtpd sends to the client. */
export interface RelayEnd {
  readonly reason: RelayEndReason;
  /** How smtpd ended; undefined if it has not. */
  readonly end: SmtpdEnd | undefined;
  /** Whether any bytes have passed from it to the client. */
  readonly hasOutput: boolean;
  /** Whether those bytes end with LF (or there are none), so that a reply of ours begins on a new line. */
  readonly atLineStart: boolean;
}

/** The two sides of a relay, its limits and its events. */
export interface RelayOptions {
  readonly client: ByteStream;
  readonly smtpd: Smtpd;
  /** Bytes read from either side that have not been written to the other. */
  readonly rest: { readonly client: Uint8Array; readonly smtpd: Uint8Array };
  /** The idle timeout for both directions, in milliseconds; undefined for no limit but smtpd's own. */
  readonly idleTimeout: number | undefined;
  /**
   * How long bytes may wait for a client that takes none of them, in milliseconds; undefined for no limit but the
   * program's own.
   */
  readonly stallTimeout: number | undefined;
  /** The same once smtpd has exited or the client has ended its side, and may be gone. */
  readonly endedTimeout: number;
  /** Settles when the relay must end at once. */
  readonly abort: Promise<void>;
  /**
   * Called when smtpd sends nothing more; returns a last reply for the client, if any. Without this
   * function there is none.
   */
  readonly closingReply?: (end: RelayEnd) => Uint8Array | undefined;
  /** Called when the relay ends because bytes waited for the client for too long. They are lost. */
  readonly clientStalled?: () => void;
}

/**
 * Copies bytes between a client and an smtpd, both ways, unchanged, until smtpd has exited and all of its
 * output is delivered.
 *
 * When the client half-closes, smtpd's input is closed and its output still delivered. When smtpd closes
 * its output, the client is half-closed and its input still delivered. When the client is gone, smtpd's output
 * is closed, as if it wrote to the connection itself.
 *
 * @returns how smtpd ended. The client's side is closed then.
 */
export async function relay(options: RelayOptions): Promise<SmtpdEnd> {
  const { client, smtpd, rest } = options;
  let hasOutput = false;
  let atLineStart = true;

  const limit = limitWaits(options);
  const up = flow(client.source, smtpd.sink, { first: rest.client, passed: limit.active });
  const down = flow(smtpd.source, client.sink, {
    first: rest.smtpd,
    passed: (bytes) => {
      limit.active();
      hasOutput = true;
      atLineStart = bytes[bytes.length - 1] === LF;
    },
    stalled: limit.clientStalled,
  });
  void up.ended.then((end) => {
    smtpd.sink.end();
    if (end === 'source-ended') limit.clientEnded();
  });
  let smtpdEnd: SmtpdEnd | undefined;
  void smtpd.ended.then((end) => {
    smtpdEnd = end;
  });

  const reason = await Promise.race([down.ended.then(describeDown), limit.passed]);
  if (reason === 'client-stalled') options.clientStalled?.();
  if (reason === 'client-gone') smtpd.source.close();
  else if (options.closingReply !== undefined) {
    const closingReply = options.closingReply({
      reason,
      end: reason === 'output-ended' ? (smtpdEnd ?? (await endAfterOutput(smtpd))) : undefined,
      hasOutput,
      atLineStart,
    });
    if (closingReply !== undefined && !down.isStalled()) client.sink.write(closingReply);
  }
  client.sink.end();

  const mayExitItself = reason === 'output-ended' || reason === 'client-gone';
  if (mayExitItself && smtpdEnd === undefined) await Promise.race([smtpd.ended, limit.passed]);
  limit.stop();
  // Reading the client again overwrites the buffer with the bytes that wait for smtpd: drop them.
  if (up.isStalled()) smtpd.sink.close();
  // Later failures of smtpd's input must not stop the reading of the client.
  up.release();
  const ended = mayExitItself ? smtpdEnd : undefined;
  const [end] = await Promise.all([ended ?? endSmtpd(smtpd), hangUp(client)]);
  return end;
}

const LF = 0x0a;

/** What the end of the direction to the client means for the relay. */
function describeDown(end: FlowEnd): 'output-ended' | 'client-gone' {
  return end === 'source-ended' ? 'output-ended' : 'client-gone';
}

/** The timeouts of a relay. */
interface Limits {
  /**
   * Settles with the reason when one has passed, or the relay is aborted. 'output-ended': smtpd has exited, and a
   * process that it left behind holds its output open.
   */
  readonly passed: Promise<RelayEndReason>;
  /** Bytes have passed, in either direction. */
  active(): void;
  /** Bytes wait for the client from now on, or no longer. */
  clientStalled(isStalled: boolean): void;
  /** The client has ended its side. */
  clientEnded(): void;
  stop(): void;
}

function limitWaits({ client, smtpd, idleTimeout, stallTimeout, endedTimeout, abort }: RelayOptions): Limits {
  const { promise: passed, resolve: expire } = deferred<RelayEndReason>();
  let hasEnded = false;
  let hasExited = false;
  let isStalled = false;
  let stopped = false;
  let idle = watchIdle(idleTimeout, () => expire('idle-timeout'));
  /** Since the first bytes that waited: each write in TLS waits for a moment, and a timer for each would be dear. */
  let stall: IdleWatch | undefined;
  /** How many octets waited when the timeout of the stall began. */
  let unsent: number | undefined;

  /** Starts the timeouts that depend on which side has ended. */
  function update(): void {
    stall?.stop();
    stall = undefined;
    if (stopped) return;
    if (isStalled) limitStall();
    limitOrphan();
  }

  /** smtpd's own limits no longer apply once it has exited. A process that it left behind may hold its output open. */
  function limitOrphan(): void {
    if (!hasExited || stopped) return;
    idle.stop();
    if (!isStalled) idle = watchIdle(ORPHAN_IDLE_TIMEOUT, () => expire('output-ended'));
  }

  /** Starts the timeout of a stall, or starts it again. */
  function limitStall(): void {
    unsent = client.sink.unsent?.();
    stall ??= watchIdle(hasEnded ? endedTimeout : stallTimeout, stallTimedOut);
    stall.active();
  }

  function stallTimedOut(): void {
    stall = undefined;
    if (!isStalled) return;
    // A client that reads slowly takes part of a piece at a time.
    if (client.sink.unsent?.() === unsent) expire('client-stalled');
    else limitStall();
  }

  void abort.then(() => expire('aborted'));
  void smtpd.ended.then(() => {
    hasEnded = true;
    hasExited = true;
    update();
  });
  return {
    passed,
    active: () => idle.active(),
    clientStalled: (now) => {
      isStalled = now;
      if (isStalled && !stopped) limitStall();
      limitOrphan();
    },
    clientEnded: () => {
      hasEnded = true;
      update();
    },
    stop: () => {
      stopped = true;
      idle.stop();
      stall?.stop();
    },
  };
}
