import type { Duplex } from 'node:stream';
import { deferred } from '../program/deferred.ts';

/** Watches for a client that goes away before its turn. */
export interface DepartureWatch {
  /** Settles when it has: it has closed or half-closed the connection with nothing said. */
  readonly departed: Promise<void>;
  /** Watches no more, once it has settled. What the client has said is there to be read. */
  stop(): Promise<void>;
}

/**
 * Watches a connection of which nobody else reads yet. The end of a connection can be seen only by reading
 * up to it, and what a client has said stands before it: so of one that speaks before its turn it is not seen.
 * It may have half-closed behind the last of its commands, and wait for the answers.
 */
export function watchDeparture(connection: Duplex): DepartureWatch {
  const { promise: departed, resolve } = deferred();
  const go = (): void => resolve();
  // To listen for this has the stream read, into a buffer that has its bound, and hand out nothing. Were the
  // bytes taken out of it, the end would be told of with nobody having served them.
  const look = (): void => {};

  connection.on('readable', look);
  connection.on('end', go);
  connection.on('close', go);
  return {
    departed,
    stop: () => {
      connection.off('readable', look);
      connection.off('end', go);
      connection.off('close', go);
      // Node takes note of the first only then, and would have a stream that was paused meanwhile flow.
      return new Promise((settle) => process.nextTick(settle));
    },
  };
}
