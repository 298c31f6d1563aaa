import type { Duplex } from 'node:stream';

/** How long the server may take for whatever it is to do, in milliseconds: others may have the machine. */
const ENDED_TIMEOUT = 20_000;

/** One side of a session over TCP, the client's or smtpd's, which hears what the server says to it. */
export interface Side {
  readonly stream: Duplex;
  /** All that it has heard, latin1. */
  heard(): string;
  /** Settles when it has heard this much, or the server has ended the connection. Rejects when it takes too long. */
  hears(octets: number): Promise<void>;
  /** Settles when the server has ended the connection. Rejects when it takes too long. */
  ends(): Promise<void>;
  /** Hears no more. */
  leave(): void;
}

/** Listens to a stream from now on. */
export function listenTo(stream: Duplex): Side {
  let heard = '';
  let isOver = false;
  let wake: () => void = () => {};

  function hear(bytes: Buffer): void {
    heard += bytes.toString('latin1');
    wake();
  }
  function end(): void {
    isOver = true;
    wake();
  }
  stream.on('data', hear);
  stream.on('end', end);
  stream.on('close', end);
  // A reset is an end like another here.
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
      if (isLate) throw new Error(`waited in vain for ${what}, after ${JSON.stringify(heard.slice(-500))}`);
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    clearTimeout(timer);
  }

  return {
    stream,
    heard: () => heard,
    hears: (octets) => until(`${octets} octets`, () => isOver || heard.length >= octets),
    ends: () => until('the end', () => isOver),
    leave: () => {
      stream.off('data', hear);
      stream.off('end', end);
      stream.off('close', end);
    },
  };
}
