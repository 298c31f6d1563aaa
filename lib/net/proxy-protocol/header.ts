import type { Duplex } from 'node:stream';
import { after } from '../../stream/time.ts';
import type { Endpoints } from '../endpoints.ts';
import { parseProxyHeader } from './receive.ts';

/** How long a proxy may take to send its header, in milliseconds. It has all of it when it connects. */
const ENDED_TIMEOUT = 10_000;

/**
 * Reads the PROXY header that a connection begins with, and nothing behind it.
 *
 * @param connection is paused afterwards, whatever came.
 * @param abort settles when it is to give up.
 * @returns the ends of the client's connection; undefined when the proxy speaks for itself.
 * @throws Error that says what is wrong with the header.
 */
export function readProxyHeader(connection: Duplex, abort: Promise<void>): Promise<Endpoints | undefined> {
  const limit = after(ENDED_TIMEOUT);
  let received = Buffer.alloc(0);
  let isOver = false;
  return new Promise((resolve, reject) => {
    function stop(): void {
      isOver = true;
      limit.cancel();
      connection.off('data', look);
      connection.off('end', cut);
      connection.off('close', cut);
      connection.pause();
    }
    function fail(why: string): void {
      // By the time that there is a reason to abort, the connection may be somebody else's.
      if (isOver) return;
      stop();
      reject(new Error(why));
    }
    function cut(): void {
      fail('the connection has ended in it');
    }
    function look(bytes: Buffer): void {
      received = Buffer.concat([received, bytes]);
      const parsed = parseProxyHeader(received);
      if (parsed.type === 'more') return;
      if (parsed.type === 'bad') return fail(parsed.why);
      stop();
      if (parsed.rest.length > 0) connection.unshift(parsed.rest);
      resolve(parsed.addresses);
    }
    connection.on('data', look);
    connection.on('end', cut);
    connection.on('close', cut);
    void limit.passed.then(() => fail('it did not come in time'));
    void abort.then(() => fail('told to end'));
    connection.resume();
  });
}
