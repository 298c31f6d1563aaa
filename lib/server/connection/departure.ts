import type { Socket } from 'node:net';
import { deferred } from '../../program/deferred.ts';
import { isConnected } from '../../stream/connected.ts';

/** Watches for a client that goes away before its turn. */
export interface DepartureWatch {
  /**
   * Settles when it has gone: the connection was closed or reset, or half-closed with nothing sent. A client that
   * has half-closed behind its commands waits for the replies.
   */
  readonly departed: Promise<void>;
  /** Watches no more, once it has settled. What the client has sent is there to be read. */
  stop(): Promise<void>;
}

/** How often a connection is looked at of which no event comes any more, in milliseconds. */
const LOOK_INTERVAL = 1000;

/**
 * Watches a connection that is not read yet. An end or a reset shows as an event only when all before it was read,
 * which is done up to the limit of the stream's buffer. For a client that has sent more, or has half-closed, the
 * system is asked every second.
 */
export function watchDeparture(connection: Socket): DepartureWatch {
  const { promise: departed, resolve } = deferred();
  const go = (): void => resolve();
  const look = (): void => {
    if (!isConnected(connection)) go();
  };

  // To listen for 'readable' has the stream read, into its buffer, and hand out nothing: bytes that are taken out
  // would not be there for the session. The event comes with bytes, and with an end behind them.
  connection.on('readable', look);
  connection.on('end', go);
  connection.on('close', go);
  const timer = setInterval(look, LOOK_INTERVAL);
  return {
    departed,
    stop: () => {
      clearInterval(timer);
      connection.off('readable', look);
      connection.off('end', go);
      connection.off('close', go);
      // Node takes note of the first only then, and would have a stream that was paused meanwhile flow.
      return new Promise((settle) => process.nextTick(settle));
    },
  };
}
