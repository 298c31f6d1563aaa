import type { Sink } from './byte-stream.ts';
import { createWriteBuffer } from './write-buffer.ts';

/** Writes to a sink, and keeps what is to be written while the sink is full. */
export interface HeldWriter {
  /** Writes bytes. If the writer becomes full with them, they must not change until it is not full any more. */
  write(bytes: Uint8Array): void;
  /** Ends the sink, after all that was written. */
  end(): void;
  /** Whether the sink takes no more at the moment. */
  isFull(): boolean;
  /** The sink has taken everything. */
  drained(): void;
  /** Discards what is kept: it will not be read. */
  drop(): void;
}

/**
 * Creates a writer. Memory: what was written since it became full; the caller bounds it.
 *
 * @param sink its listener is to call `drained`.
 */
export function createHeldWriter(sink: Sink): HeldWriter {
  const held = createWriteBuffer();
  let isFull = false;
  let isEnding = false;

  return {
    write: (bytes) => {
      if (isFull) held.push(Buffer.from(bytes));
      else isFull = !sink.write(bytes);
    },
    end: () => {
      isEnding = true;
      if (!isFull) sink.end();
    },
    isFull: () => isFull,
    drained: () => {
      isFull = held.size() > 0 && !sink.write(held.take());
      if (isEnding && !isFull) sink.end();
    },
    drop: () => {
      isFull = false;
      held.take();
    },
  };
}
