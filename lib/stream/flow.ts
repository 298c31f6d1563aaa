import { deferred } from '../program/deferred.ts';
import { IGNORE, type Sink, type Source } from './byte-stream.ts';
import { after } from './time.ts';

/** How one direction of a relay ended: its source had no more to give, or its sink took no more. */
export type FlowEnd = 'source-ended' | 'sink-failed';

/** One direction of a relay under way. */
export interface Flow {
  /** Settles when the direction has ended and all that the sink took has left this process. */
  readonly ended: Promise<FlowEnd>;
  /** True while bytes wait because the far side does not read. */
  isStalled(): boolean;
  /** Lets go of source and sink as they are, so that they can be given to someone else. */
  release(): void;
}

/** What a direction is to do besides copying. */
export interface FlowOptions {
  /** What came before the relay began, and goes first. */
  readonly first: Uint8Array;
  /** Called with each piece on its way, `first` included when it is not empty. The bytes are not to be kept. */
  readonly passed: (bytes: Uint8Array) => void;
  /** Called when bytes begin to wait because the far side does not read, and when they do not any more. */
  readonly stalled?: (isStalled: boolean) => void;
}

/**
 * Copies bytes one way, untouched, until the source ends or the sink fails. Neither is closed then: the
 * other direction may need what they belong to.
 *
 * Memory: one piece, the one that the source has read and the sink has not written yet.
 */
export function flow(source: Source, sink: Sink, { first, passed, stalled: notify }: FlowOptions): Flow {
  let stalled = false;
  let sourceEnded = false;
  const { promise: ended, resolve: settle } = deferred<FlowEnd>();

  function pass(bytes: Uint8Array): void {
    passed(bytes);
    if (sink.write(bytes)) return;
    setStalled(true);
    source.pause();
  }

  function setStalled(isStalled: boolean): void {
    if (isStalled === stalled) return;
    stalled = isStalled;
    notify?.(isStalled);
  }

  sink.listen({
    drained: () => {
      setStalled(false);
      if (sourceEnded) settle('source-ended');
      else source.read();
    },
    failed: () => {
      setStalled(false);
      source.pause();
      settle('sink-failed');
    },
  });
  source.listen({
    bytes: pass,
    ended: () => {
      sourceEnded = true;
      if (!stalled) settle('source-ended');
    },
  });
  if (first.length > 0) pass(first);
  if (!stalled) source.read();
  return {
    ended,
    isStalled: () => stalled,
    release: () => {
      source.listen(IGNORE);
      sink.listen(IGNORE);
    },
  };
}

/**
 * Reads a source to its end and throws away what it gives, for at most `milliseconds`.
 *
 * A socket that is closed with bytes in it that nobody has read resets the connection, and the peer may
 * lose the last words that were said to it. So they are read.
 */
export async function drain(source: Source, milliseconds: number): Promise<void> {
  const limit = after(milliseconds);
  const ended = new Promise<void>((resolve) => {
    source.listen({ bytes() {}, ended: () => resolve() });
    source.read();
  });
  await Promise.race([ended, limit.passed]);
  limit.cancel();
  source.close();
}
