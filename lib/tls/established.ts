/** Checks of an established TLS session that Node does not make itself. */

import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { isConnected, unsentOctets } from '../stream/connected.ts';
import { createTicker } from '../stream/time.ts';

/** The time between two checks of a session, in milliseconds. */
const INTERVAL = 1000;

/** Checks the sessions of this process. */
const checks = createTicker(INTERVAL);

/**
 * Watches a TLS session until it is closed. See `closeOnReset`, `limitUnsent` and `release`.
 *
 * @param connection the connection below TLS.
 * @param socket has just completed the handshake.
 * @param exceeded is called once, with the reason, after the socket was destroyed because its client exceeded a limit.
 */
export function watchSession(connection: Duplex, socket: TLSSocket, exceeded: (why: string) => void): void {
  const checkReset = closeOnReset(connection, socket);
  const checkUnsent = limitUnsent(connection, socket, exceeded);
  socket.prependListener('end', checkReset);
  // While nothing is read, there is no 'end' event.
  const stop = checks.add(() => {
    checkReset();
    if (!socket.destroyed) checkUnsent();
  });
  socket.on('close', () => {
    stop();
    release(socket);
  });
  connection.on('close', () => release(connection));
}

/**
 * Destroys a TLS socket whose connection was reset, where Node reports an ordinary end or nothing.
 *
 * When a write of the TLS engine itself (of a session ticket, for example) fails because of the reset, Node drops
 * the error. The next read returns the end of the connection, and no later write completes or fails. Once our side
 * has ended there is nothing to write, and a connection that both sides have closed in order looks like one that was
 * reset, although there may be input that has not been read yet.
 *
 * @returns the check: to be called at the end of the session's input, and once in a while.
 */
function closeOnReset(connection: Duplex, socket: TLSSocket): () => void {
  return () => {
    const hasEnded = socket.writableFinished || connection.writableFinished;
    if (!hasEnded && !isConnected(socket)) socket.destroy(new Error('ECONNRESET'));
  };
}

/** How many octets may wait for a client in the TLS engine and below it. A relay writes 64 KiB at a time. */
const UNSENT_LIMIT = 1_048_576;

/** The overhead of records per octet of data: 22 octets in 16,384, with room for smaller records. */
const RECORD_OVERHEAD = 1 / 512;

/**
 * Ends a session whose client fills our memory with the answers to its TLS records, which it does not read.
 *
 * The TLS engine answers each KeyUpdate (RFC 8446 section 4.6.3) of 27 octets with as many, and keeps the answers
 * while the system accepts nothing; their number is not limited, and Node does not give the number of octets. The
 * engine hands all of them over with each write to the system, so they are at most as many as the client has sent
 * since the last write, not counting data.
 *
 * @returns the check: to be called every second.
 */
function limitUnsent(connection: Duplex, socket: TLSSocket, exceeded: (why: string) => void): () => void {
  const received = octetsReceived(connection);
  const overhead = (): number => received() - socket.bytesRead * (1 + RECORD_OVERHEAD);
  let written = -1;
  let atLastWrite = 0;

  return () => {
    const unsent = unsentOctets(connection);
    const now = connection instanceof Socket ? connection.bytesWritten : written;
    if (unsent === 0 || now !== written) atLastWrite = overhead();
    written = now;
    if (unsent + overhead() - atLastWrite <= UNSENT_LIMIT) return;
    socket.destroy();
    exceeded('the client does not read the answers to its TLS records');
  };
}

/** Counts the octets of ciphertext received over a connection. */
function octetsReceived(connection: Duplex): () => number {
  if (connection instanceof Socket) return () => connection.bytesRead;
  let octets = 0;
  connection.on('data', (bytes: Buffer) => {
    octets += bytes.length;
  });
  return () => octets;
}

/**
 * Removes all listeners of a closed TLS socket, or of the connection below it. Only a full garbage collection frees
 * Node's TLS engine, and the engine refers to both: with the listeners, all that belonged to the session would stay in
 * memory until then.
 */
function release(stream: Duplex): void {
  stream.removeAllListeners();
  // An error without a listener would end the process.
  stream.on('error', () => {});
}
