import { type ByteStream, IGNORE, type SinkListener, type SourceListener } from './byte-stream.ts';
import { createWriteBuffer } from './write-buffer.ts';

/** What is behind a front until it is connected. */
export interface FrontHandler {
  /**
   * Bytes were written to the front. They are valid during the call.
   *
   * @returns false if not all of them could be processed: then nothing more is written until `Front.proceed`.
   */
  received(bytes: Uint8Array): boolean;
  /** Everything that was sent has been taken. */
  drained(): void;
  /** Nothing more will be written. */
  ended(): void;
  /** The user of the front has closed it: nothing is read from it any more. */
  closed(): void;
}

/** A byte stream that a handler serves at first, and that can be connected to another one later. */
export interface Front {
  /** For the user of the front. */
  readonly stream: ByteStream;
  /**
   * Sends bytes to the user; those sent before it reads are given in one piece.
   *
   * @returns false if enough is pending: the handler should send no more until `drained`.
   */
  send(bytes: Uint8Array): boolean;
  /** More may be written, after `received` has returned false. */
  proceed(): void;
  /** Connects the front: from now on, what is written goes to `peer` after `first`, and its bytes are read. */
  connect(peer: ByteStream, first: Uint8Array): void;
  /** Sends nothing more: the user gets what was sent, and the end. */
  end(): void;
}

/** How many octets may be pending before `send` returns false. */
const ENOUGH = 16384;

/**
 * Other connections are served after `ENOUGH` octets of output. A smaller piece than this counts as much: what is before
 * it, a command and its reply, has a cost too.
 */
const SMALLEST = 1024;

/** Its reactions are microtasks. Node makes those of queueMicrotask asynchronous resources, which costs more than a flush. */
const NOW = Promise.resolve();

/**
 * Creates a front. As with other streams, the user gets no bytes and no end during a call of its own.
 *
 * Memory: `ENOUGH` and what is sent with one more call.
 */
export function createFront(handler: FrontHandler): Front {
  let sourceListener: SourceListener = IGNORE;
  let sinkListener: SinkListener = IGNORE;
  let isReading = false;
  let isScheduled = false;
  /** How many octets were given since other connections were served. */
  let given = 0;
  const output = createWriteBuffer();
  /** What follows the output: its end, the bytes of a peer, or more of it. */
  let next: 'more' | 'peer' | 'end' | 'closed' = 'more';
  let peer: ByteStream | undefined;
  /** All output is taken, and the user reads the peer itself. */
  let isLinked = false;
  let hasEnded = false;
  let inputEnded = false;
  /** A write has returned false. */
  let isHeld = false;

  function schedule(): void {
    if (isScheduled || !isReading) return;
    isScheduled = true;
    // Microtasks alone would answer all commands that wait before any other connection is served.
    if (given < ENOUGH) return void NOW.then(flush);
    given = 0;
    setImmediate(flush);
  }

  function flush(): void {
    isScheduled = false;
    if (!isReading || isLinked || hasEnded) return;
    if (output.size() > 0) {
      given += Math.max(output.size(), SMALLEST);
      sourceListener.bytes(output.take());
      return schedule();
    }
    if (next === 'peer') link();
    else if (next === 'more') handler.drained();
    else if (next === 'end') {
      hasEnded = true;
      sourceListener.ended();
    }
  }

  function link(): void {
    isLinked = true;
    peer?.source.listen(sourceListener);
    peer?.source.read();
  }

  function end(): void {
    if (next !== 'closed') next = 'end';
    schedule();
  }

  return {
    stream: {
      source: {
        listen: (listener) => {
          sourceListener = listener;
          if (isLinked) peer?.source.listen(listener);
          else if (hasEnded) queueMicrotask(() => sourceListener === listener && listener.ended());
        },
        read: () => {
          isReading = true;
          if (isLinked) peer?.source.read();
          else schedule();
        },
        pause: () => {
          isReading = false;
          if (isLinked) peer?.source.pause();
        },
        close: () => {
          sourceListener = IGNORE;
          isReading = false;
          next = 'closed';
          if (peer !== undefined) peer.source.close();
          else handler.closed();
        },
      },
      sink: {
        listen: (listener) => {
          sinkListener = listener;
          peer?.sink.listen(listener);
        },
        write: (bytes) => {
          if (peer !== undefined) return peer.sink.write(bytes);
          if (inputEnded) return true;
          isHeld = !handler.received(bytes);
          return !isHeld;
        },
        end: (done) => {
          if (peer !== undefined) return peer.sink.end(done);
          if (!inputEnded) {
            inputEnded = true;
            handler.ended();
          }
          done?.();
        },
        close: () => {
          inputEnded = true;
          sinkListener = IGNORE;
          if (peer !== undefined) peer.sink.close();
          else handler.closed();
        },
      },
    },
    send: (bytes) => {
      if (next !== 'closed' && bytes.length > 0) {
        output.push(bytes);
        schedule();
      }
      return output.size() < ENOUGH;
    },
    proceed: () => {
      if (!isHeld) return;
      isHeld = false;
      sinkListener.drained();
    },
    connect: (to, first) => {
      peer = to;
      // Although it is paused, it may deliver once more: Node resumes the output of a program that exits.
      to.source.listen({ bytes: (bytes) => output.push(Buffer.from(bytes)), ended: end });
      to.sink.listen(sinkListener);
      const isTaken = first.length === 0 || to.sink.write(first);
      if (inputEnded) to.sink.end();
      else if (isHeld && isTaken) sinkListener.drained();
      if (next === 'closed') return to.source.close();
      next = 'peer';
      schedule();
    },
    end,
  };
}
