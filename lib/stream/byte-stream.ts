/**
 * The two ends of a byte stream, as the session and the relay use them.
 *
 * Node's streams lack one thing: a way to stop reading *at once*. A paused net.Socket continues to fill its buffer
 * from the kernel, and would consume bytes that belong to the TLS engine of another process. `openSource`
 * (descriptor.ts) stops at once. Source is the interface that it shares with ordinary streams; Sink is its
 * counterpart for writing.
 */

import type { Duplex, Readable, Writable } from 'node:stream';
import { unsentOctets } from './connected.ts';

/** Receives the events of a Source. */
export interface SourceListener {
  /**
   * Bytes have arrived. They are valid until the Source reads again: to keep them after the call, copy them or
   * pause the Source. May be called once more after `pause`; those bytes must be accepted too.
   */
  bytes(bytes: Uint8Array): void;
  /** No more bytes follow: the peer has half-closed, or, with `failure`, reading has failed. */
  ended(failure?: Error): void;
}

/** The reading end of a stream. It is paused until `read`. */
export interface Source {
  /** Replaces the listener. A listener set after the end is called with it too. */
  listen(listener: SourceListener): void;
  /** Starts or resumes reading. */
  read(): void;
  /** Stops reading. */
  pause(): void;
  /** Stops reading and closes what this end alone holds. The listener is not called. */
  close(): void;
}

/** Receives the events of a Sink. */
export interface SinkListener {
  /** After a `write` that returned false: everything written has left this process. */
  drained(): void;
  /** The peer accepts no more bytes (EPIPE, ECONNRESET); all further writes are lost. */
  failed(failure: Error): void;
}

/** The writing end of a stream. */
export interface Sink {
  /** Replaces the listener. A listener set after a failure is called with it too. */
  listen(listener: SinkListener): void;
  /**
   * Writes bytes.
   *
   * @returns true if all bytes have left this process and their memory may be reused; false if they wait, and the
   * caller must not write until `drained`.
   */
  write(bytes: Uint8Array): boolean;
  /**
   * Writes the bytes that wait, then half-closes.
   *
   * @param done called when that has succeeded or failed. May be given in a later call.
   */
  end(done?: () => void): void;
  /** How many octets wait in this process; undefined if that is not known. A change is progress. */
  readonly unsent?: (() => number) | undefined;
  /** Closes the stream and discards the bytes that wait. The listener is not called. */
  close(): void;
}

/** Both directions of a connection with one party. */
export interface ByteStream {
  readonly source: Source;
  readonly sink: Sink;
}

/**
 * Makes both ends from a Node stream, which is paused until `read`.
 *
 * @param below what the stream writes to, if that is another stream: TLS over a socket.
 */
export function byteStreamOf(stream: Duplex, below: Duplex = stream): ByteStream {
  return { source: sourceOfStream(stream), sink: sinkOfStream(stream, below) };
}

/** Makes a Source from a Node stream, which is paused until `read`. */
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
 * The part of a Source that is the same for every kind of stream: the listener, and detecting the end.
 *
 * @param stream its end is the first of 'end', 'error' and 'close'. A child's pipes, for example, may be destroyed
 * with 'close' only.
 * @param control how to resume and to pause reading.
 * @returns the Source, and the function to call with bytes that arrive.
 */
export function watchedSource(
  stream: Readable,
  control: Pick<Source, 'read' | 'pause'>,
): { source: Source; bytes: (bytes: Uint8Array) => void } {
  let listener: SourceListener = IGNORE;
  let end: { failure?: Error } | undefined;
  let closed = false;

  function onEnd(failure?: Error): void {
    if (end !== undefined || closed) return;
    end = failure === undefined ? {} : { failure };
    listener.ended(failure);
  }

  stream.on('end', () => onEnd());
  stream.on('error', onEnd);
  stream.on('close', () => onEnd());
  const source: Source = {
    read: control.read,
    pause: control.pause,
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

/** A listener that ignores all events. */
export const IGNORE: SourceListener & SinkListener = { bytes() {}, ended() {}, drained() {}, failed() {} };

/**
 * Makes a Sink from a Node stream.
 *
 * @param below what the stream writes to, if that is another stream: TLS over a socket.
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
    if (!stream.writableFinished) fail(CLOSED);
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
      // Not the result of Node's `write`, which compares with highWaterMark: bytes may still be in this process.
      waiting = stream.writableLength > 0;
      return !waiting;
    },
    end: (done) => {
      if (failure === undefined && !stream.writableEnded) stream.end();
      if (done === undefined) return;
      if (failure !== undefined || stream.writableFinished) return done();
      const doneOnce = once(done);
      stream.on('finish', doneOnce);
      stream.on('close', doneOnce);
    },
    unsent: () => unsentOctets(below),
    close: () => {
      listener = IGNORE;
      stream.destroy();
    },
  };
}

/** One for all: every TLS session closes the socket below it like this, and an error records its stack. */
const CLOSED = new Error('closed before everything was written');

/** Returns a function that calls `act` on its first call only. */
export function once(act: () => void): () => void {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    act();
  };
}
