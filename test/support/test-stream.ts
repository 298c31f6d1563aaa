/** Streams and smtpds that a test controls, for tests of what connects them. */

import type { Smtpd, SmtpdEnd } from '../../lib/smtpd/smtpd.ts';
import type { ByteStream, SinkListener, SourceListener } from '../../lib/stream/byte-stream.ts';

/** A stream whose other end is the test. Its Source and Sink behave as byte-stream.ts specifies. */
export interface TestStream extends ByteStream {
  /** Sends bytes. They wait, as in a kernel, until the Source is read. */
  send(text: string): void;
  /**
   * Delivers bytes although the Source is paused, as a Source may once after `pause`: Node resumes the output of a program
   * that exits.
   */
  push(text: string): void;
  /** Sends the end, or a read error, after the bytes that wait. */
  finish(failure?: Error): void;
  /** From now on a write is not taken in full, until `take`. */
  stall(): void;
  /** Takes what was written. */
  take(): void;
  /** Fails: what is written from now on is lost. */
  fail(): void;
  /** All that was written, taken or not. */
  received(): string;
  /** The same, write by write. */
  writes(): string[];
  isRead(): boolean;
  /** Whether the stream was half-closed, by `end` or `close` of its Sink. */
  hasEnded(): boolean;
  /** Which of the Source and the Sink were closed. */
  closed(): ('source' | 'sink')[];
  /** How often something was written while an earlier write was not taken. */
  overruns(): number;
}

const NO_LISTENER: SourceListener & SinkListener = { bytes() {}, ended() {}, drained() {}, failed() {} };

/**
 * Creates a stream.
 *
 * @param reuses whether it delivers all bytes in one buffer, as a descriptor of ours does: they are overwritten
 * when it reads again.
 */
export function createTestStream(reuses = true): TestStream {
  let reader: SourceListener = NO_LISTENER;
  let writer: SinkListener = NO_LISTENER;
  const written: Uint8Array[] = [];
  let reading = false;
  let lent = Buffer.alloc(0);
  let stalls = false;
  let waiting = false;
  let failure: Error | undefined;
  let overruns = 0;
  let ended = false;
  let over: { failure?: Error } | undefined;
  let isOver = false;
  const queue: string[] = [];
  const closed: ('source' | 'sink')[] = [];
  const done: (() => void)[] = [];

  function give(text: string): void {
    lent = Buffer.from(text, 'latin1');
    reader.bytes(lent);
    if (reading) overwrite();
  }

  function overwrite(): void {
    if (reuses) lent.fill('#');
  }

  function deliver(): void {
    while (reading && queue.length > 0) give(queue.shift() ?? '');
    // An error is delivered even while the Source is paused.
    if (over !== undefined && !isOver && (reading || over.failure !== undefined)) {
      isOver = true;
      reader.ended(over.failure);
    }
  }

  function writes(): string[] {
    return written.map((bytes) => Buffer.from(bytes).toString('latin1'));
  }

  function flushed(): void {
    if (ended) for (const one of done.splice(0)) one();
  }

  return {
    source: {
      listen: (next) => {
        reader = next;
        if (isOver) queueMicrotask(() => reader === next && next.ended(over?.failure));
      },
      read: () => {
        if (closed.includes('source')) return;
        reading = true;
        overwrite();
        deliver();
      },
      pause: () => {
        reading = false;
      },
      close: () => {
        reading = false;
        reader = NO_LISTENER;
        closed.push('source');
      },
    },
    sink: {
      listen: (next) => {
        writer = next;
        const past = failure;
        if (past !== undefined) queueMicrotask(() => writer === next && next.failed(past));
      },
      write: (bytes) => {
        if (failure !== undefined || ended) return true;
        if (waiting) overruns += 1;
        waiting = stalls;
        // What waits is not copied, what was taken may be overwritten.
        written.push(waiting ? bytes : Buffer.from(bytes));
        return !waiting;
      },
      end: (then) => {
        ended = true;
        if (then !== undefined) done.push(then);
        if (!waiting) flushed();
      },
      close: () => {
        ended = true;
        waiting = false;
        writer = NO_LISTENER;
        closed.push('sink');
      },
    },
    send: (text) => {
      queue.push(text);
      deliver();
    },
    push: (text) => reader.bytes(Buffer.from(text, 'latin1')),
    finish: (why) => {
      over = why === undefined ? {} : { failure: why };
      deliver();
    },
    stall: () => {
      stalls = true;
    },
    take: () => {
      stalls = false;
      if (!waiting) return;
      waiting = false;
      for (const [index, bytes] of written.entries()) written[index] = Buffer.from(bytes);
      flushed();
      writer.drained();
    },
    fail: () => {
      failure = new Error('EPIPE');
      waiting = false;
      flushed();
      writer.failed(failure);
    },
    received: () => writes().join(''),
    writes,
    isRead: () => reading,
    hasEnded: () => ended,
    closed: () => closed,
    overruns: () => overruns,
  };
}

/** An smtpd that a test controls. */
export interface TestSmtpd extends TestStream, Smtpd {
  /** It ends. Its output stays open until `finish`. */
  exit(end: SmtpdEnd): void;
  /** The signals that it was sent. */
  signals(): NodeJS.Signals[];
}

/** Creates an smtpd. */
export function createTestSmtpd(): TestSmtpd {
  const signals: NodeJS.Signals[] = [];
  let exit: (end: SmtpdEnd) => void = () => {};
  const ended = new Promise<SmtpdEnd>((resolve) => {
    exit = resolve;
  });
  return {
    ...createTestStream(false),
    ended,
    exit: (end) => exit(end),
    kill: (signal) => void signals.push(signal),
    signals: () => signals,
  };
}

/** What a promise has settled with so far; undefined while it has not. Look after `settle`. */
export function outcomeOf<T>(promise: Promise<T>): () => T | undefined {
  let outcome: T | undefined;
  void promise.then((value) => {
    outcome = value;
  });
  return () => outcome;
}
