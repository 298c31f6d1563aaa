/** What a TLS session is watched for once its handshake is done, because Node does not. */

import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { isConnected, unsentOctets } from '../stream/connected.ts';

/** How often a session is looked at, in milliseconds. */
const INTERVAL = 1000;

/**
 * Destroys a TLS socket whose connection was reset, where Node reports that as an ordinary end, or not at all.
 *
 * When a write of the TLS engine itself (a session ticket, say) meets the reset first, Node drops its error. The
 * next read finds the end of the connection, and no write ever completes or fails again. Once our side has ended
 * there is nothing to write, and a connection that both sides have closed in order looks like one that was reset,
 * although what the client sent before may not be read yet.
 *
 * @param connection what TLS is done over.
 * @param socket with the handshake done just now.
 */
export function closeOnReset(connection: Duplex, socket: TLSSocket): void {
  const check = (): void => {
    const hasEnded = socket.writableFinished || connection.writableFinished;
    if (!hasEnded && !isConnected(socket)) socket.destroy(new Error('ECONNRESET'));
  };
  socket.prependListener('end', check);
  // While nothing is read there is no end.
  const timer = setInterval(check, INTERVAL).unref();
  socket.on('close', () => clearInterval(timer));
}

/** How many octets may wait for a client in the TLS engine and below it. A relay writes 64 KiB at a time. */
const UNSENT_LIMIT = 1_048_576;

/** How much of the records that bring data is not data: 22 octets in 16,384, with room for smaller records. */
const RECORD_OVERHEAD = 1 / 512;

/**
 * Ends a session whose client fills our memory by TLS records that ask for answers, and does not read those.
 *
 * The TLS engine answers each KeyUpdate (RFC 8446 section 4.6.3) of 27 octets with as many, and keeps the answers
 * while the system takes nothing; nothing else limits how many there are. How many it keeps cannot be asked for.
 * It hands over all of them with each write to the system, so there are at most as many octets as have come since
 * the last one, data apart.
 *
 * @param connection what TLS is done over.
 * @param socket with the handshake done just now.
 * @param exceeded is called once, with why, when the socket has been destroyed for it.
 */
export function limitUnsent(connection: Duplex, socket: TLSSocket, exceeded: (why: string) => void): void {
  const received = octetsReceived(connection);
  const overhead = (): number => received() - socket.bytesRead * (1 + RECORD_OVERHEAD);
  let written = -1;
  let atLastWrite = 0;

  const timer = setInterval(check, INTERVAL).unref();
  socket.on('close', () => clearInterval(timer));

  function check(): void {
    const unsent = unsentOctets(connection);
    const now = connection instanceof Socket ? connection.bytesWritten : written;
    if (unsent === 0 || now !== written) atLastWrite = overhead();
    written = now;
    if (unsent + overhead() - atLastWrite <= UNSENT_LIMIT) return;
    clearInterval(timer);
    socket.destroy();
    exceeded('the client does not read the answers to its TLS records');
  }
}

/** Counts what comes over a connection, in octets of ciphertext. */
function octetsReceived(connection: Duplex): () => number {
  if (connection instanceof Socket) return () => connection.bytesRead;
  let octets = 0;
  connection.on('data', (bytes: Buffer) => {
    octets += bytes.length;
  });
  return () => octets;
}
