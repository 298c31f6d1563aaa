import type { Socket } from 'node:net';
import { Duplex, PassThrough } from 'node:stream';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';

/**
 * Does the client's part of a handshake. Which certificate it is shown is looked at by those tests that are
 * about certificates. Where the server may give up at once, this is to be called before it can: on a
 * connection that has ended already Node would wait without limit.
 *
 * @throws Error as Node gives it, with the alert in its code; or that the connection has ended.
 */
export async function startTls(wire: Duplex, options: ConnectionOptions = {}): Promise<TLSSocket> {
  const socket = connect({ socket: wire, rejectUnauthorized: false, ...options });
  await new Promise<void>((resolve, reject) => {
    socket.once('secureConnect', resolve);
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('the connection has ended in the handshake')));
  });
  socket.on('error', () => {});
  return socket;
}

/** The bytes that a stream has delivered, latin1. */
export interface Collected {
  /** Settles when that many octets have arrived, with all that have; rejects when the stream ends before. */
  octets(count: number): Promise<string>;
  /** Settles at the end, with all octets; rejects when the stream fails instead of ending. */
  readonly all: Promise<string>;
}

/** Collects what a stream delivers from now on. */
export function collect(stream: Duplex): Collected {
  let received = '';
  let isOver = false;
  let check: () => void = () => {};
  stream.on('data', (bytes: Buffer) => {
    received += bytes.toString('latin1');
    check();
  });
  const all = new Promise<string>((resolve, reject) => {
    stream.on('end', () => resolve(received));
    stream.on('error', reject);
    stream.on('close', () => reject(new Error(`closed without an end, after ${JSON.stringify(received)}`)));
    stream.on('close', () => {
      isOver = true;
      check();
    });
    stream.on('end', () => {
      isOver = true;
      check();
    });
  });
  all.catch(() => {});
  return {
    all,
    octets: (count) =>
      new Promise((resolve, reject) => {
        check = () => {
          if (received.length >= count) resolve(received);
          else if (isOver) reject(new Error(`the end came after ${JSON.stringify(received)}`));
        };
        check();
      }),
  };
}

/** The types of TLS records (RFC 5246 section 6.2.1), which TLS 1.2 does not encrypt. */
export const RECORD = { changeCipherSpec: 20, alert: 21, handshake: 22, applicationData: 23 } as const;

/** A connection whose incoming side is looked at. */
export interface Tap {
  /** What TLS is to be done over. */
  readonly wire: Duplex;
  /** The types of the TLS records that have come, in their order. */
  records(): number[];
  /** Settles when the other side has half-closed; rejects when the connection was reset. */
  readonly ended: Promise<void>;
}

/** Looks at what comes over a connection. */
export function tap(client: Socket): Tap {
  const pieces: Buffer[] = [];
  const incoming = new PassThrough();
  client.on('data', (bytes: Buffer) => {
    pieces.push(bytes);
    incoming.write(bytes);
  });
  const ended = new Promise<void>((resolve, reject) => {
    client.on('end', resolve);
    client.on('error', reject);
    client.on('close', () => reject(new Error('closed without an end')));
  });
  ended.catch(() => {});
  client.on('end', () => incoming.end());
  return {
    wire: Duplex.from({ readable: incoming, writable: client }),
    records: () => recordTypes(Buffer.concat(pieces)),
    ended,
  };
}

function recordTypes(bytes: Buffer): number[] {
  const types: number[] = [];
  for (let at = 0; at + 5 <= bytes.length; at += 5 + bytes.readUInt16BE(at + 3))
    types.push(bytes.readUInt8(at));
  return types;
}
