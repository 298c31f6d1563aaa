import { deferred } from '../program/deferred.ts';
import { IGNORE, type Sink, type Source } from './byte-stream.ts';

/** How one direction of a relay ended: its source ended, or its sink failed. */
export type FlowEnd = 'source-ended' | 'sink-failed';

/** One direction of a running relay. */
export interface Flow {
  /** Settles when the direction has ended and everything written to the sink has left this process. */
  readonly ended: Promise<FlowEnd>;
  /** True while bytes wait because the peer does not read. */
  isStalled(): boolean;
  /** Detaches from source and sink and leaves them as they are, for another user. */
  release(): void;
}

/** The first bytes and the events of a flow. */
export interface FlowOptions {
  /** Bytes that arrived before the relay began; they are written first. */
  readonly first: Uint8Array;
  /** Called with each piece, including `first` unless it is empty. The bytes are valid only during the call. */
  readonly passed: (bytes: Uint8Array) => void;
  /** Called with true when bytes begin to wait because the peer does not read, with false when they are taken. */
  readonly stalled?: (isStalled: boolean) => void;
}

/**
 * Copies bytes in one direction, unchanged, until the source ends or the sink fails. Neither is closed: the
 * other direction may need the connection they belong to.
 *
 * Memory: one piece, read by the source and not yet written by the sink.
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
