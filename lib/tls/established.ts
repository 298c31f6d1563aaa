/** What a TLS session is watched for once its handshake is done, because Node does not. */

import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TLSSocket } from 'node:tls';
import { isConnected } from '../stream/connected.ts';

/** How often a session is looked at, in milliseconds. */
const INTERVAL = 1000;

/**
 * Destroys a TLS socket whose connection was reset, where Node reports that as an ordinary end, or not at all.
 *
 * When a write of the TLS engine itself (a session ticket, say) meets the reset first, Node drops its error. The
 * next read finds the end of the connection, and no write ever completes or fails again.
 *
 * @param socket with the handshake done just now.
 */
export function closeOnReset(socket: TLSSocket): void {
  const check = (): void => {
    if (!isConnected(socket)) socket.destroy(new Error('ECONNRESET'));
  };
  socket.prependListener('end', check);
  // While nothing is read there is no end.
  const timer = setInterval(check, INTERVAL).unref();
  socket.on('close', () => clearInterval(timer));
}

/**
 * How many octets of TLS records without data a client may send, and how many more for each octet of data. A
 * record with one octet in it has 22 to 29 others; padding (RFC 8446 section 5.4) may multiply that.
 */
const OVERHEAD_ALLOWANCE = 262_144;
const OVERHEAD_PER_OCTET = 64;

/**
 * The same while written bytes wait for the client. Bulk data has 22 octets in 16,384 of overhead, and 22 in 1,400
 * where records are small.
 */
const UNSENT_ALLOWANCE = 1_048_576;
const UNSENT_PER_OCTET = 1 / 32;

/**
 * Ends a session whose client sends TLS records for the work that they cause.
 *
 * Each KeyUpdate (RFC 8446 section 4.6.3) costs new keys, and an answer, which the TLS engine keeps in memory
 * while the client reads nothing; nothing limits how many there are. So records that bring no data are counted:
 * those of the whole session, and those that have come while written bytes wait for the client.
 *
 * @param connection what TLS is done over.
 * @param socket with the handshake done just now.
 * @param exceeded is called once, with why, when the socket has been destroyed for it.
 */
export function limitOverhead(connection: Duplex, socket: TLSSocket, exceeded: (why: string) => void): void {
  const received = octetsReceived(connection);
  const atStart = received();
  /** Overhead and data when bytes began to wait. */
  let unsentSince = { overhead: 0, data: 0 };

  const timer = setInterval(check, INTERVAL).unref();
  socket.on('close', () => clearInterval(timer));

  function check(): void {
    const data = socket.bytesRead;
    const overhead = received() - atStart - data;
    if (!hasUnsent(connection)) unsentSince = { overhead, data };
    const unread = overhead - unsentSince.overhead - UNSENT_PER_OCTET * (data - unsentSince.data);
    if (overhead - OVERHEAD_PER_OCTET * data > OVERHEAD_ALLOWANCE) {
      end('the client sends TLS records without data');
    } else if (unread > UNSENT_ALLOWANCE) {
      end('the client sends TLS records without data and reads nothing');
    }
  }

  function end(why: string): void {
    clearInterval(timer);
    socket.destroy();
    exceeded(why);
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

/**
 * Whether written bytes wait for the client. The TLS engine writes to the handle of a socket, below the stream: of
 * that queue only an undocumented property of the handle tells.
 */
function hasUnsent(connection: Duplex & { readonly _handle?: unknown }): boolean {
  const { _handle: handle } = connection;
  if (typeof handle === 'object' && handle !== null && 'writeQueueSize' in handle) {
    return handle.writeQueueSize !== 0;
  }
  return connection.writableLength > 0;
}
