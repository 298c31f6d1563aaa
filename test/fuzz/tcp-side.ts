import type { Duplex } from 'node:stream';

/** How long the server may take for each step, in milliseconds; the machine may be busy. */
const ENDED_TIMEOUT = 20_000;

/** One side of a session over TCP, the client's or smtpd's, which receives what the server sends to it. */
export interface Side {
  readonly stream: Duplex;
  /** All that it has received, latin1. */
  received(): string;
  /** Settles when it has received this much, or the server has ended the connection. Rejects when it takes too long. */
  receives(octets: number): Promise<void>;
  /** Settles when the server has ended the connection. Rejects when it takes too long. */
  ends(): Promise<void>;
  /** Receives no more. */
  stop(): void;
}

/** Collects what a stream delivers from now on. */
export function collectFrom(stream: Duplex): Side {
  let received = '';
  let isOver = false;
  let wake: () => void = () => {};

  function receive(bytes: Buffer): void {
    received += bytes.toString('latin1');
    wake();
  }
  function end(): void {
    isOver = true;
    wake();
  }
  stream.on('data', receive);
  stream.on('end', end);
  stream.on('close', end);
  // A reset counts as an end here.
  stream.on('error', end);
  // It may have been paused.
  stream.resume();

  async function until(what: string, condition: () => boolean): Promise<void> {
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      wake();
    }, ENDED_TIMEOUT);
    while (!condition()) {
      if (isLate) throw new Error(`no ${what} after ${JSON.stringify(received.slice(-500))}`);
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    clearTimeout(timer);
  }

  return {
    stream,
    received: () => received,
    receives: (octets) => until(`${octets} octets`, () => isOver || received.length >= octets),
    ends: () => until('end', () => isOver),
    stop: () => {
      stream.off('data', receive);
      stream.off('end', end);
      stream.off('close', end);
    },
  };
}
