import type { Duplex } from 'node:stream';
import { after } from '../../stream/time.ts';
import type { Endpoints } from '../endpoints.ts';
import { parseProxyHeader } from './receive.ts';

/** How long a proxy may take to send its header, in milliseconds. It can send it as soon as it is connected. */
const HEADER_TIMEOUT = 10_000;

/**
 * Reads the PROXY header at the start of a connection. The bytes after it are put back.
 *
 * @param connection is paused afterwards, also on failure.
 * @param abort ends the wait when it settles.
 * @returns the ends of the client's connection; undefined when the header gives none, see `parseProxyHeader`.
 * @throws Error that names the fault.
 */
export function readProxyHeader(connection: Duplex, abort: Promise<void>): Promise<Endpoints | undefined> {
  const limit = after(HEADER_TIMEOUT);
  let received = Buffer.alloc(0);
  let isOver = false;
  return new Promise((resolve, reject) => {
    function stop(): void {
      isOver = true;
      limit.cancel();
      connection.off('data', onData);
      connection.off('end', onEnd);
      connection.off('close', onEnd);
      connection.pause();
    }
    function fail(why: string): void {
      // When `abort` settles later, the connection may have another reader.
      if (isOver) return;
      stop();
      reject(new Error(why));
    }
    function onEnd(): void {
      fail('the connection ended before the header was complete');
    }
    function onData(bytes: Buffer): void {
      received = Buffer.concat([received, bytes]);
      const parsed = parseProxyHeader(received);
      if (parsed.type === 'more') return;
      if (parsed.type === 'bad') return fail(parsed.why);
      stop();
      if (parsed.rest.length > 0) connection.unshift(parsed.rest);
      resolve(parsed.addresses);
    }
    connection.on('data', onData);
    connection.on('end', onEnd);
    connection.on('close', onEnd);
    void limit.passed.then(() => fail('timed out'));
    void abort.then(() => fail('shutting down'));
    connection.resume();
  });
}
