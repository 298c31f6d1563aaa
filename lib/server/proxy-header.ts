import type { Duplex } from 'node:stream';
import { after } from '../stream/time.ts';
import type { Endpoints } from './endpoints.ts';
import { parseProxyHeader } from './proxy-protocol.ts';

/** How long a proxy may take to send its header, in milliseconds. It has all of it when it connects. */
const PATIENCE = 10_000;

/**
 * Reads the PROXY header that a connection begins with, and nothing behind it.
 *
 * @param hurry settles when it is to give up.
 * @returns the ends of the client's connection; undefined when the proxy speaks for itself.
 * @throws Error that says what is wrong with the header.
 */
export async function readProxyHeader(
  connection: Duplex,
  hurry: Promise<void>,
): Promise<Endpoints | undefined> {
  const limit = after(PATIENCE);
  try {
    return await Promise.race([
      read(connection),
      limit.passed.then(() => Promise.reject(new Error('it did not come in time'))),
      hurry.then(() => Promise.reject(new Error('told to end'))),
    ]);
  } finally {
    limit.cancel();
  }
}

function read(connection: Duplex): Promise<Endpoints | undefined> {
  let received = Buffer.alloc(0);
  return new Promise((resolve, reject) => {
    function settle(settling: () => void): void {
      connection.off('data', look);
      connection.off('end', cut);
      connection.off('close', cut);
      connection.pause();
      settling();
    }
    function cut(): void {
      settle(() => reject(new Error('the connection has ended in it')));
    }
    function look(bytes: Buffer): void {
      received = Buffer.concat([received, bytes]);
      const parsed = parseProxyHeader(received);
      if (parsed.type === 'more') return;
      settle(() => {
        if (parsed.type === 'bad') return reject(new Error(parsed.why));
        if (parsed.rest.length > 0) connection.unshift(parsed.rest);
        resolve(parsed.addresses);
      });
    }
    connection.on('data', look);
    connection.on('end', cut);
    connection.on('close', cut);
    connection.resume();
  });
}
