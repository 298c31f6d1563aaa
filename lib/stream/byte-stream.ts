/**
 * The two ends of a stream of bytes, as the session and the relay see them.
 *
 * Node's own streams are almost this. What they lack is a way to stop reading *at once*: a paused
 * net.Socket goes on to fill its buffer from the kernel, and bytes that belong to the TLS engine of
 * another process would be swallowed. `openSource` (descriptor.ts) has that way; a Source is what it and
 * an ordinary stream have in common, and a Sink is what goes with it.
 */

import type { Readable, Writable } from 'node:stream';
import { unsentOctets } from './connected.ts';

/** Who is told what a Source gives. */
export interface SourceListener {
  /**
   * Bytes came. They are good until the Source reads again, so whoever keeps them after the call either
   * copies them or pauses the Source. May come once more after `pause`, and must then be taken too.
   */
  bytes(bytes: Uint8Array): void;
  /** There will be no more: the peer has half-closed, or (with the failure) reading has failed. */
  ended(failure?: Error): void;
}

/** Where bytes come from. It is paused until `read`. */
export interface Source {
  /** Names the one listener from now on. If the end has come already, this one is told too. */
  listen(listener: SourceListener): void;
  /** Lets bytes come. */
  read(): void;
  /** Stops them. */
  pause(): void;
  /** Reads no more, and closes what this end alone holds. Nobody is told. */
  close(): void;
}

/** Who is told how a Sink does. */
export interface SinkListener {
  /** All that was written has left this process, after a `write` that returned false. */
  drained(): void;
  /** The peer takes no more (EPIPE, ECONNRESET); all further writes are lost. */
  failed(failure: Error): void;
}

/** Where bytes go. */
export interface Sink {
  /** Names the one listener from now on. If the failure has come already, this one is told too. */
  listen(listener: SinkListener): void;
  /**
   * Writes.
   *
   * @returns true when all bytes have left this process, so that their memory may be used again; false
   * when they wait, and the caller is to write no more until `drained`.
   */
  write(bytes: Uint8Array): boolean;
  /**
   * Writes out what waits and half-closes.
   *
   * @param done is called when that is over, in success or failure. May be given in a later call.
   */
  end(done?: () => void): void;
  /** How many octets wait in this process; undefined where that is not known. Another number is progress. */
  readonly unsent?: () => number;
  /** Closes, what waits is lost. Nobody is told. */
  close(): void;
}

/** Both directions of a conversation with one party. */
export interface ByteStream {
  readonly source: Source;
  readonly sink: Sink;
}

/** Makes a Source of a stream of Node's. The stream is paused from here on until `read`. */
export function sourceOfStream(stream: Readable): Source {
  stream.pause();
  const { source, bytes } = watchedSource(stream, {
    read: () => stream.resume(),
    pause: () => stream.pause(),
  });
  stream.on('data', bytes);
  return source;
}

/**
 * The part of a Source that is the same for every kind of stream: who listens, and how it learns of the end.
 *
 * @param stream tells of its end by 'end', 'error' or 'close', whichever is first: a child's pipes, say,
 * are destroyed with nothing but the last.
 * @param control how to let bytes come and how to stop them.
 * @returns the Source, and where to put the bytes that come.
 */
export function watchedSource(
  stream: Readable,
  control: Pick<Source, 'read' | 'pause'>,
): { source: Source; bytes: (bytes: Uint8Array) => void } {
  let listener: SourceListener = IGNORE;
  let end: { failure?: Error } | undefined;
  let closed = false;

  function over(failure?: Error): void {
    if (end !== undefined || closed) return;
    end = failure === undefined ? {} : { failure };
    listener.ended(failure);
  }

  stream.on('end', () => over());
  stream.on('error', over);
  stream.on('close', () => over());
  const source: Source = {
    ...control,
    listen: (next) => {
      listener = next;
      const past = end;
      if (past !== undefined) queueMicrotask(() => listener === next && next.ended(past.failure));
    },
    close: () => {
      closed = true;
      listener = IGNORE;
      stream.destroy();
    },
  };
  return { source, bytes: (bytes) => listener.bytes(bytes) };
}

/** A listener that does not listen. */
export const IGNORE: SourceListener & SinkListener = { bytes() {}, ended() {}, drained() {}, failed() {} };

/**
 * Makes a Sink of a stream of Node's.
 *
 * @param below what the stream writes to, where that is another stream: TLS over a socket.
 */
export function sinkOfStream(stream: Writable, below: Writable = stream): Sink {
  let listener: SinkListener = IGNORE;
  let waiting = false;
  let failure: Error | undefined;

  function flushed(): void {
    if (!waiting || stream.writableLength > 0 || failure !== undefined) return;
    waiting = false;
    listener.drained();
  }

  function fail(why: Error): void {
    if (failure !== undefined) return;
    failure = why;
    listener.failed(why);
  }

  stream.on('error', fail);
  stream.on('close', () => {
    if (!stream.writableFinished) fail(new Error('closed before all was written'));
  });
  return {
    listen: (next) => {
      listener = next;
      const past = failure;
      if (past !== undefined) queueMicrotask(() => listener === next && next.failed(past));
    },
    write: (bytes) => {
      if (failure !== undefined || stream.writableEnded) return true;
      stream.write(bytes, flushed);
      // Not the answer of Node's `write`, which is about a mark in memory: "did the kernel take it all?"
      waiting = stream.writableLength > 0;
      return !waiting;
    },
    end: (done) => {
      if (failure === undefined && !stream.writableEnded) stream.end();
      if (done === undefined) return;
      if (failure !== undefined || stream.writableFinished) return done();
      const tellOnce = once(done);
      stream.on('finish', tellOnce);
      stream.on('close', tellOnce);
    },
    unsent: () => unsentOctets(below),
    close: () => {
      listener = IGNORE;
      stream.destroy();
    },
  };
}

/** Makes a function that acts when it is called first, and never again. */
export function once(act: () => void): () => void {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    act();
  };
}
