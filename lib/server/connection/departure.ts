import type { Socket } from 'node:net';
import { deferred } from '../../program/deferred.ts';
import { isConnected } from '../../stream/connected.ts';

/** Watches for a client that disconnects while it waits for a slot. */
export interface DepartureWatch {
  /**
   * Settles when the client has closed or reset the connection, or has half-closed it without sending anything. A
   * client that half-closes after sending commands still waits for replies.
   */
  readonly departed: Promise<void>;
  /** Stops watching; settles when it has stopped. What the client has sent can still be read. */
  stop(): Promise<void>;
}

/** How often the state of a connection is polled, in milliseconds. */
const POLL_INTERVAL = 1000;

/**
 * Watches a connection that is not read yet. Node reports an end or a reset only after it has read all that came
 * before, and it reads no more than the stream's buffer holds. For a client that has sent more, or has half-closed,
 * the kernel is polled every second.
 */
export function watchDeparture(connection: Socket): DepartureWatch {
  const { promise: departed, resolve } = deferred();
  const depart = (): void => resolve();
  const poll = (): void => {
    if (!isConnected(connection)) depart();
  };

  // A listener for 'readable' makes the stream read into its buffer without handing bytes out, so they stay there
  // for the session. The event comes with bytes, and again with the end that follows them.
  connection.on('readable', poll);
  connection.on('end', depart);
  connection.on('close', depart);
  const timer = setInterval(poll, POLL_INTERVAL);
  return {
    departed,
    stop: () => {
      clearInterval(timer);
      connection.off('readable', poll);
      connection.off('end', depart);
      connection.off('close', depart);
      // Node applies the removal of the 'readable' listener on the next tick. If the stream were paused before that,
      // Node would make it flow again.
      return new Promise((settle) => process.nextTick(settle));
    },
  };
}
