import type { Duplex } from 'node:stream';
import { deferred } from '../program/deferred.ts';

/** How much of what a client says before its turn is read, in octets: a PROXY header, a TLS hello. */
const MOST = 16384;

/** Watches for a client that goes away before its turn. */
export interface DepartureWatch {
  /** Settles when it has: it has closed or half-closed the connection, whatever it said before. */
  readonly departed: Promise<void>;
  /** Watches no more. What the client has said is there to be read again. */
  stop(): void;
}

/**
 * Watches a connection of which nobody else reads yet. The end of a connection can be seen only by reading
 * up to it, so behind more than a little that was said too early it is not seen.
 */
export function watchDeparture(connection: Duplex): DepartureWatch {
  const { promise: departed, resolve } = deferred();
  const early: Buffer[] = [];
  let octets = 0;
  const keep = (bytes: Buffer): void => {
    early.push(bytes);
    octets += bytes.length;
    if (octets >= MOST) connection.pause();
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
      if (octets > 0 && !connection.readableEnded) connection.unshift(Buffer.concat(early));
    },
  };
}
