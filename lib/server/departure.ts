import type { Duplex } from 'node:stream';
import { deferred } from '../program/deferred.ts';

/** Watches for a client that goes away before its turn. */
export interface DepartureWatch {
  /** Settles when it has: it has closed or half-closed the connection with nothing said. */
  readonly departed: Promise<void>;
  /** Watches no more. What the client has said is there to be read again. */
  stop(): void;
}

/**
 * Watches a connection of which nobody else reads yet. The end of a connection can be seen only by reading
 * up to it, and what a client has said stands before it: so of one that speaks before its turn it is not seen.
 * It may have half-closed behind the last of its commands, and wait for the answers.
 */
export function watchDeparture(connection: Duplex): DepartureWatch {
  const { promise: departed, resolve } = deferred();
  const early: Buffer[] = [];
  const keep = (bytes: Buffer): void => {
    early.push(bytes);
    connection.pause();
  };
  const go = (): void => resolve();

  connection.on('data', keep);
  connection.on('end', go);
  connection.on('close', go);
  connection.resume();
  return {
    departed,
    stop: () => {
      connection.off('data', keep);
      connection.off('end', go);
      connection.off('close', go);
      connection.pause();
      if (early.length > 0) connection.unshift(Buffer.concat(early));
    },
  };
}
