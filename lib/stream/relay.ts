import { deferred } from '../program/deferred.ts';
import type { ByteStream } from './byte-stream.ts';
import type { Child, ChildEnd } from './child.ts';
import { endAfterOutput, endChild, ORPHAN_IDLE_TIMEOUT } from './end-child.ts';
import { drain, flow } from './flow.ts';
import { after, type IdleWatch, watchIdle } from './time.ts';

/**
 * How long a client may take to hang up after the program has, in milliseconds. Until then what it still
 * says is read and thrown away, so that the last words to it arrive.
 */
const LINGER = 2000;

/** Why nothing more will come from the program. */
export interface RelayEnd {
  /**
   * Its output has ended; nothing passed for too long; the client did not take what waits for it in time; or
   * the relay was aborted.
   */
  readonly reason: 'output-ended' | 'idle-timeout' | 'client-stalled' | 'aborted';
  /** How it ended, when it has. */
  readonly end: ChildEnd | undefined;
  /** Whether anything has passed from it to the client. */
  readonly said: boolean;
  /** Whether what has passed ends with LF, so that a line of ours would not stand in the middle of one. */
  readonly atLineStart: boolean;
}

/** What is relayed, and under which terms. */
export interface RelayOptions {
  readonly client: ByteStream;
  readonly child: Child;
  /** What was read from either side and has not gone to the other. */
  readonly rest: { readonly client: Uint8Array; readonly child: Uint8Array };
  /** How long nothing may pass either way, in milliseconds; undefined for no bound but the program's own. */
  readonly idleTimeout: number | undefined;
  /**
   * How long bytes may wait for a client that takes none of them, in milliseconds; undefined for no bound
   * but the program's own.
   */
  readonly stallTimeout: number | undefined;
  /** The same once the program has ended, or the client has: it may not be there any more. */
  readonly endedTimeout: number;
  /** Settles when it is to end at once. */
  readonly abort: Promise<void>;
  /**
   * Told when nothing more will come from the program; gives what is to be said to the client instead.
   * Without it the client is half-closed at once.
   */
  readonly closingReply?: (end: RelayEnd) => Uint8Array | undefined;
  /** Called when the relay ends because bytes waited for the client for too long. They are lost. */
  readonly clientStalled?: () => void;
}

/**
 * Copies bytes between a client and a program, both ways, untouched, until the program has ended and all
 * it said is delivered.
 *
 * A client that half-closes closes the program's input and goes on hearing it. A program that closes its
 * output half-closes the client and goes on hearing it. A client that is gone closes the program's output,
 * as if the program wrote to the connection itself.
 *
 * @returns how the program ended. The client's side is closed then.
 */
export async function relay(relaying: RelayOptions): Promise<ChildEnd> {
  const { client, child, rest } = relaying;
  let said = false;
  let atLineStart = true;

  const aborted = relaying.abort.then(() => 'aborted' as const);
  const limit = limitWaits(relaying);
  const up = flow(client.source, child.sink, { first: rest.client, passed: limit.active });
  const down = flow(child.source, client.sink, {
    first: rest.child,
    passed: (bytes) => {
      limit.active();
      said = true;
      atLineStart = bytes[bytes.length - 1] === LF;
    },
    stalled: limit.clientStalled,
  });
  void up.ended.then((end) => {
    child.sink.end();
    if (end === 'source-ended') limit.ended();
  });

  const reason = await Promise.race([down.ended, limit.passed, aborted]);
  if (reason === 'client-stalled') relaying.clientStalled?.();
  if (reason === 'sink-failed') child.source.close();
  else if (relaying.closingReply !== undefined) {
    const isOver = reason === 'output-ended' || reason === 'source-ended';
    const closingReply = relaying.closingReply({
      reason: isOver ? 'output-ended' : reason,
      end: isOver ? await endAfterOutput(child) : undefined,
      said,
      atLineStart,
    });
    if (closingReply !== undefined && !down.isStalled()) client.sink.write(closingReply);
  }
  client.sink.end();

  const isForced = reason === 'idle-timeout' || reason === 'client-stalled' || reason === 'aborted';
  const end = isForced ? reason : await Promise.race([child.ended, limit.passed, aborted]);
  limit.stop();
  // Reading the client again overwrites the buffer that holds what waits for the program: it must not get that.
  if (up.isStalled()) child.sink.close();
  // What fails from now on must not stop the reading of what the client has yet to say.
  up.release();
  const [childEnd] = await Promise.all([typeof end === 'string' ? endChild(child) : end, hangUp(client)]);
  return childEnd;
}

const LF = 0x0a;

/** The bounds on the waits of a relay. */
interface Limits {
  /** Settles when one has passed, and why nothing more is to be expected. */
  readonly passed: Promise<'idle-timeout' | 'client-stalled' | 'output-ended'>;
  /** Bytes have passed, either way. */
  active(): void;
  /** Bytes wait for the client from now on, or do not any more. */
  clientStalled(isStalled: boolean): void;
  /** The client has ended its side. */
  ended(): void;
  stop(): void;
}

function limitWaits({ client, child, idleTimeout, stallTimeout, endedTimeout }: RelayOptions): Limits {
  const { promise: passed, resolve: expire } = deferred<'idle-timeout' | 'client-stalled' | 'output-ended'>();
  let hasEnded = false;
  let childEnded = false;
  let isStalled = false;
  let stopped = false;
  let idle = watchIdle(idleTimeout, () => expire('idle-timeout'));
  let stall: IdleWatch | undefined;

  /** Begins the waits that depend on who has ended and on whether the client is stalled. */
  function update(): void {
    stall?.stop();
    stall = undefined;
    if (stopped) return;
    if (isStalled) limitStall();
    if (!childEnded) return;
    // From now on the program's own bounds end nothing. What it has left behind may hold its output.
    idle.stop();
    if (!isStalled) idle = watchIdle(ORPHAN_IDLE_TIMEOUT, () => expire('output-ended'));
  }

  function limitStall(): void {
    const before = client.sink.unsent?.();
    stall = watchIdle(hasEnded ? endedTimeout : stallTimeout, () => {
      // A client that reads slowly takes part of a piece at a time.
      if (client.sink.unsent?.() === before) expire('client-stalled');
      else limitStall();
    });
  }

  void child.ended.then(() => {
    hasEnded = true;
    childEnded = true;
    update();
  });
  return {
    passed,
    active: () => idle.active(),
    clientStalled: (now) => {
      isStalled = now;
      update();
    },
    ended: () => {
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

/**
 * Ends the connection with a client to which everything is said: half-closes it, waits a moment for it to
 * do the same, and closes it.
 */
export async function hangUp(client: ByteStream): Promise<void> {
  const limit = after(LINGER);
  const flushed = new Promise<void>((resolve) => client.sink.end(resolve));
  await Promise.all([Promise.race([flushed, limit.passed]), drain(client.source, LINGER)]);
  limit.cancel();
  client.sink.close();
}
