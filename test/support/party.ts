/** Streams that are made up, for tests of what is between them. */

import type { ByteStream, SinkListener, SourceListener } from '../../lib/stream/byte-stream.ts';
import type { Child, ChildEnd } from '../../lib/stream/child.ts';

/** A stream whose other end is the test. It does what byte-stream.ts says of a Source and a Sink. */
export interface Party extends ByteStream {
  /** Sends bytes. They wait, as in a kernel, while nobody reads. */
  send(text: string): void;
  /**
   * Delivers bytes though nobody reads, as a Source may once after `pause`: Node resumes the output of a program
   * that exits.
   */
  push(text: string): void;
  /** Sends the end, or a failure of reading, behind the bytes that wait. */
  finish(failure?: Error): void;
  /** From now on a write is not taken in full, until `take`. */
  stall(): void;
  /** Takes what was written. */
  take(): void;
  /** Takes no more: what is written from now on is lost. */
  fail(): void;
  /** All that was written. */
  received(): string;
  isRead(): boolean;
  /** Whether the stream was half-closed, by `end` or `close` of its Sink. */
  hasEnded(): boolean;
  /** Which of the Source and the Sink were closed. */
  closed(): ('source' | 'sink')[];
  /** How often something was written while an earlier write was not taken. */
  overruns(): number;
}

const NO_ONE: SourceListener & SinkListener = { bytes() {}, ended() {}, drained() {}, failed() {} };

/** Makes a stream. */
export function makeParty(): Party {
  let reader: SourceListener = NO_ONE;
  let writer: SinkListener = NO_ONE;
  let received = '';
  let reading = false;
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

  function deliver(): void {
    while (reading && queue.length > 0) reader.bytes(Buffer.from(queue.shift() ?? '', 'latin1'));
    // A failure comes whether anybody reads or not.
    if (over !== undefined && !isOver && (reading || over.failure !== undefined)) {
      isOver = true;
      reader.ended(over.failure);
    }
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
        deliver();
      },
      pause: () => {
        reading = false;
      },
      close: () => {
        reading = false;
        reader = NO_ONE;
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
        received += Buffer.from(bytes).toString('latin1');
        waiting = stalls;
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
        writer = NO_ONE;
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
      flushed();
      writer.drained();
    },
    fail: () => {
      failure = new Error('EPIPE');
      waiting = false;
      flushed();
      writer.failed(failure);
    },
    received: () => received,
    isRead: () => reading,
    hasEnded: () => ended,
    closed: () => closed,
    overruns: () => overruns,
  };
}

/** A program that is made up. */
export interface FakeChild extends Party, Child {
  /** The program ends. Its output stays open until `finish`. */
  exit(end: ChildEnd): void;
  /** The signals that it was sent. */
  signals(): NodeJS.Signals[];
}

/** Makes a program. */
export function makeChild(): FakeChild {
  const signals: NodeJS.Signals[] = [];
  let exit: (end: ChildEnd) => void = () => {};
  const ended = new Promise<ChildEnd>((resolve) => {
    exit = resolve;
  });
  return {
    ...makeParty(),
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
