import type { ByteStream, Source } from './byte-stream.ts';
import { within } from './time.ts';

/**
 * How long a client may take to close the connection after we have, in milliseconds. Until then its input
 * is read and discarded, so that the last bytes sent to it arrive.
 */
const LINGER = 2000;

/**
 * Ends the connection with a client to which everything has been sent: half-closes it, waits for the client to do
 * the same, at most `LINGER` milliseconds, and closes it.
 */
export async function hangUp({ source, sink }: ByteStream): Promise<void> {
  const flushed = new Promise<void>((resolve) => sink.end(resolve));
  await within(LINGER, Promise.all([flushed, drain(source)]));
  source.close();
  sink.close();
}

/**
 * Reads a source to its end, and discards the bytes. Closing a socket with unread bytes resets the connection, and the
 * peer may lose the last bytes sent to it.
 */
function drain(source: Source): Promise<void> {
  return new Promise((resolve) => {
    source.listen({ bytes() {}, ended: () => resolve() });
    source.read();
  });
}
