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
export async function hangUp(client: ByteStream): Promise<void> {
  const flushed = new Promise<void>((resolve) => client.sink.end(resolve));
  await Promise.all([within(LINGER, flushed), drain(client.source, LINGER)]);
  client.sink.close();
}

/**
 * Reads a source to its end, for at most `milliseconds`, discards the bytes, and closes it.
 *
 * Closing a socket with unread bytes resets the connection, and the peer may lose the last bytes sent to it.
 */
export async function drain(source: Source, milliseconds: number): Promise<void> {
  const ended = new Promise<void>((resolve) => {
    source.listen({ bytes() {}, ended: () => resolve() });
    source.read();
  });
  await within(milliseconds, ended);
  source.close();
}
