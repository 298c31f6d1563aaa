import type { Duplex } from 'node:stream';
import { readUntil } from '../../stream/read-until.ts';
import { within } from '../../stream/time.ts';
import type { Endpoints } from '../endpoints.ts';
import { type ProxyParse, parseProxyHeader } from './receive.ts';

/** How long a proxy may take to send its header, in milliseconds. It can send it as soon as it is connected. */
const HEADER_TIMEOUT = 10_000;

/**
 * Reads the PROXY header at the start of a connection. The bytes after it are put back.
 *
 * @param connection is paused afterwards. On failure the caller must close it.
 * @param abort ends the wait when it settles.
 * @returns the ends of the client's connection; undefined when the header gives none, see `parseProxyHeader`.
 * @throws Error that names the fault.
 */
export async function readProxyHeader(
  connection: Duplex,
  abort: Promise<void>,
): Promise<Endpoints | undefined> {
  const header = await within(
    HEADER_TIMEOUT,
    Promise.race([readUntil(connection, 'the header was complete', parse), abort.then(throwShuttingDown)]),
  );
  if (header === undefined) throw new Error('timed out');
  return header.addresses;
}

function parse(received: Buffer): Extract<ProxyParse, { type: 'header' }> | undefined {
  const parsed = parseProxyHeader(received);
  if (parsed.type === 'bad') throw new Error(parsed.why);
  return parsed.type === 'more' ? undefined : parsed;
}

function throwShuttingDown(): never {
  throw new Error('shutting down');
}
