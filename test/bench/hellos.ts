/** Beginnings of handshakes, made of recorded ones without any arithmetic. */
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect } from 'node:tls';
import type { Pair } from '../support/certificate.ts';

const HANDSHAKE = 22;
const CLIENT_HELLO = 1;
const CERTIFICATE = 11;
const PRE_SHARED_KEY = 41;
/** One that no server knows: from the range for private use. */
const UNKNOWN_EXTENSION = 65_300;
/** The most that a record may hold (RFC 8446 section 5.1). */
const RECORD_LIMIT = 16_384;

/** A handshake message that no server waits for, and answers by an alert. */
export const UNEXPECTED = recordsOf(messageOf(99, Buffer.alloc(0)));

/** Fills a hello up with extensions that mean nothing. */
export function padded(hello: Buffer, size: number): Buffer {
  const extensions: Buffer[] = [];
  // They have a common length of two octets. What is more goes into the names of ciphers.
  const room = Math.min(size, 60_000) - hello.length;
  extensions.push(extensionOf(UNKNOWN_EXTENSION, Buffer.alloc(Math.max(0, room))));
  return change(hello, extensions, Math.max(0, size - 60_000));
}

/**
 * Offers many session tickets that have the name of the server's key, so that it tries each.
 *
 * @param server gives one, of which the name is taken.
 */
export async function withTickets(hello: Buffer, { port }: { port: number }, count: number): Promise<Buffer> {
  const client = connect({ port, host: '127.0.0.1', rejectUnauthorized: false, maxVersion: 'TLSv1.2' });
  await once(client, 'secureConnect');
  const name = client.getTLSTicket()?.subarray(0, 16);
  client.destroy();
  if (name === undefined) throw new Error('the server gives no tickets');
  const identity = Buffer.concat([counted(2, Buffer.concat([name, Buffer.alloc(20)])), Buffer.alloc(4)]);
  const identities = counted(2, Buffer.concat(Array.from({ length: count }, () => identity)));
  const binders = counted(2, counted(1, Buffer.alloc(32)));
  return change(hello, [extensionOf(PRE_SHARED_KEY, Buffer.concat([identities, binders]))], 0);
}

/** The certificates of a client, as it shows them in TLS 1.2 (RFC 5246 section 7.4.6): in cleartext. */
export function certificateMessage(pairs: readonly Pair[]): Buffer {
  const all = pairs.map(({ certFile }) => counted(3, new X509Certificate(readFileSync(certFile)).raw));
  return recordsOf(messageOf(CERTIFICATE, counted(3, Buffer.concat(all))));
}

/** A hello with further extensions, and that many octets more of cipher suites. */
function change(hello: Buffer, extensions: readonly Buffer[], ciphers: number): Buffer {
  const body = hello.subarray(5 + 4);
  let at = 2 + 32;
  at += 1 + body.readUInt8(at);
  const suites = body.subarray(at + 2, at + 2 + body.readUInt16BE(at));
  const rest = at + 2 + suites.length;
  const compression = rest + 1 + body.readUInt8(rest);
  const changed = Buffer.concat([
    body.subarray(0, at),
    // GREASE (RFC 8701), which no server knows.
    counted(2, Buffer.concat([suites, Buffer.alloc(Math.min(ciphers - (ciphers % 2), 65_000), 0x0a)])),
    body.subarray(rest, compression),
    counted(2, Buffer.concat([body.subarray(compression + 2), ...extensions])),
  ]);
  return recordsOf(messageOf(CLIENT_HELLO, changed));
}

function extensionOf(type: number, content: Buffer): Buffer {
  return Buffer.concat([Buffer.from([type >> 8, type & 255]), counted(2, content)]);
}

function messageOf(type: number, body: Buffer): Buffer {
  return Buffer.concat([Buffer.from([type]), counted(3, body)]);
}

/** A handshake message in as many records as it takes. */
function recordsOf(message: Buffer): Buffer {
  const records: Buffer[] = [];
  for (let at = 0; at < message.length; at += RECORD_LIMIT) {
    records.push(Buffer.from([HANDSHAKE, 3, 3]), counted(2, message.subarray(at, at + RECORD_LIMIT)));
  }
  return Buffer.concat(records);
}

/** Octets with their count before them, which takes so many octets. */
function counted(size: number, octets: Buffer): Buffer {
  const count = Buffer.alloc(size);
  count.writeUIntBE(octets.length, 0, size);
  return Buffer.concat([count, octets]);
}
