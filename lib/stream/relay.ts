import { deferred } from '../program/deferred.ts';
import type { ByteStream } from './byte-stream.ts';
import type { Child, ChildEnd } from './child.ts';
import { endAfterOutput, endChild, ORPHAN_SILENCE } from './end-child.ts';
import { drain, flow } from './flow.ts';
import { after, watchSilence } from './time.ts';

/**
 * How long a client may take to hang up after the program has, in milliseconds. Until then what it still
 * says is read and thrown away, so that the last words to it arrive.
 */
const LINGER = 2000;

/** Why nothing more will come from the program. */
export interface RelayEnd {
  /** Its output has ended; nothing passed for too long; or it was told to hurry. */
  readonly reason: 'output-ended' | 'too-silent' | 'hurried';
  /** How it ended, when it has. */
  readonly end: ChildEnd | undefined;
  /** Whether anything has passed from it to the client. */
  readonly said: boolean;
  /** Whether what has passed ends with LF, so that a line of ours would not stand in the middle of one. */
  readonly atLineStart: boolean;
}

/** What is relayed, and under which terms. */
export interface Relaying {
  readonly client: ByteStream;
  readonly child: Child;
  /** What was read from either side and has not gone to the other. */
  readonly rest: { readonly client: Uint8Array; readonly child: Uint8Array };
  /** How long nothing may pass either way, in milliseconds; undefined for no bound but the program's own. */
  readonly silence: number | undefined;
  /** How long a client may leave the last words of a program that has ended unread, in milliseconds. */
  readonly patience: number;
  /** Settles when it is to end at once. */
  readonly hurry: Promise<void>;
  /**
   * Told when nothing more will come from the program; gives what is to be said to the client instead.
   * Without it the client is half-closed at once.
   */
  readonly farewell?: (end: RelayEnd) => Uint8Array | undefined;
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
export async function relay(relaying: Relaying): Promise<ChildEnd> {
  const { client, child, rest } = relaying;
  let said = false;
  let atLineStart = true;

  const hurried = relaying.hurry.then(() => 'hurried' as const);
  const limit = limitSilence(relaying, () => down.isStalled());
  const up = flow(client.source, child.sink, { first: rest.client, passed: limit.heard });
  const down = flow(child.source, client.sink, {
    first: rest.child,
    passed: (bytes) => {
      limit.heard();
      said = true;
      atLineStart = bytes[bytes.length - 1] === LF;
    },
  });
  void up.ended.then(() => child.sink.end());

  const reason = await Promise.race([down.ended, limit.passed, hurried]);
  if (reason === 'sink-failed') child.source.close();
  else if (relaying.farewell !== undefined) {
    const isOver = reason === 'output-ended' || reason === 'source-ended';
    const farewell = relaying.farewell({
      reason: isOver ? 'output-ended' : reason,
      end: isOver ? await endAfterOutput(child) : undefined,
      said,
      atLineStart,
    });
    if (farewell !== undefined && !down.isStalled()) client.sink.write(farewell);
  }
  client.sink.end();

  const isPressed = reason === 'too-silent' || reason === 'hurried';
  const end = isPressed ? reason : await Promise.race([child.ended, limit.passed, hurried]);
  limit.stop();
  // What fails from now on must not stop the reading of what the client has yet to say.
  up.release();
  const [childEnd] = await Promise.all([typeof end === 'string' ? endChild(child) : end, hangUp(client)]);
  return childEnd;
}

const LF = 0x0a;

/** The end of a relay in which nothing passes any more. */
function limitSilence(
  { child, silence, patience }: Relaying,
  isClientStalled: () => boolean,
): { passed: Promise<'too-silent' | 'output-ended'>; heard: () => void; stop: () => void } {
  const { promise: passed, resolve: expire } = deferred<'too-silent' | 'output-ended'>();
  let watch = watchSilence(silence, () => expire('too-silent'));
  let stopped = false;

  // Once the program has ended nobody but us minds the time, and there has to be an end.
  void child.ended.then(() => {
    if (stopped) return;
    watch.stop();
    watch = watchSilence(ORPHAN_SILENCE, () => {
      if (!isClientStalled()) return expire('output-ended');
      watch = watchSilence(patience, () => expire('too-silent'));
    });
  });
  return {
    passed,
    heard: () => watch.heard(),
    stop: () => {
      stopped = true;
      watch.stop();
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
