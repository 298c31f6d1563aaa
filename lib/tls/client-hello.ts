import type { Duplex } from 'node:stream';

/** How much of a ClientHello is looked at, in octets; those of today have two thousand at the most. */
const HELLO_LIMIT = 16384;

const HANDSHAKE_RECORD = 22;
const CLIENT_HELLO = 1;
/** Of a handshake message: its type, and three octets of length. */
const HEADER_LENGTH = 4;
const SERVER_NAME = 0;
const HOST_NAME = 0;

/** What a server name may consist of (RFC 6066 section 3), and `_`, which some have in theirs. */
const VALID_NAME = /^[A-Za-z0-9._-]{1,255}$/;

/**
 * Finds out which server a client asks for, before TLS begins. What was read is put back.
 *
 * Node can tell as well, in the midst of the handshake, but by then a certificate has been chosen: one by
 * name is only laid beside it, and a client that knows both kinds of key may be shown the wrong one. And it
 * gives no name in a resumed session of TLS 1.2.
 *
 * @returns the name as `findServerName` gives it; empty also when there is no ClientHello at all, which the TLS
 * engine will find too.
 * @throws Error when the connection ends first.
 */
export function peekServerName(connection: Duplex): Promise<string> {
  let received = Buffer.alloc(0);
  return new Promise((resolve, reject) => {
    function letGo(): void {
      connection.off('data', look);
      connection.off('error', reject);
      connection.off('end', hungUp);
      connection.off('close', hungUp);
    }
    function hungUp(): void {
      letGo();
      reject(new Error('the connection has ended before the ClientHello'));
    }
    function look(bytes: Buffer): void {
      received = Buffer.concat([received, bytes]);
      const name = findServerName(received);
      if (name === undefined) return;
      letGo();
      connection.pause();
      connection.unshift(received);
      resolve(name);
    }
    connection.on('data', look);
    connection.on('error', reject);
    connection.on('end', hungUp);
    connection.on('close', hungUp);
    // It may have been paused, and would stay so.
    connection.resume();
  });
}

/**
 * Finds the server name (RFC 6066 section 3) in what a client has said so far.
 *
 * @returns letters, digits, `-`, `_` and dots, at most 255: the name goes into the environment of an smtpd, and
 * into logs. Empty when there is none, or something else in its place; undefined when it takes more to tell.
 */
export function findServerName(received: Buffer): string | undefined {
  try {
    const hello = joinRecords(received);
    if (hello === undefined) return received.length > HELLO_LIMIT ? '' : undefined;
    return serverNameOf(hello);
  } catch (error) {
    // A length in it leads out of it.
    if (error instanceof RangeError) return '';
    throw error;
  }
}

/** The body of the first handshake message, which may come in several records; undefined while it is not whole. */
function joinRecords(received: Buffer): Buffer | undefined {
  const parts: Buffer[] = [];
  let octets = 0;
  let length = HEADER_LENGTH;
  for (let at = 0; at < received.length; ) {
    if (received.readUInt8(at) !== HANDSHAKE_RECORD) return NOTHING;
    if (at + 5 > received.length) return undefined;
    const end = at + 5 + received.readUInt16BE(at + 3);
    // Forbidden (RFC 8446 section 5.1), and many would be a way to keep this process busy.
    if (end === at + 5) return NOTHING;
    const part = received.subarray(at + 5, end);
    if (octets === 0 && part.length > 0 && part.readUInt8(0) !== CLIENT_HELLO) return NOTHING;
    parts.push(part);
    octets += part.length;
    if (octets >= length) {
      // Twice at the most: when the header is there, and when all is.
      const message = Buffer.concat(parts);
      length = HEADER_LENGTH + message.readUIntBE(1, 3);
      if (octets >= length) return message.subarray(HEADER_LENGTH, length);
    }
    at = end;
  }
  return undefined;
}

/** A message without a body: reading anything in it fails. */
const NOTHING = Buffer.alloc(0);

/** Reads a ClientHello (RFC 8446 section 4.1.2) as far as its server name. @throws RangeError. */
function serverNameOf(hello: Buffer): string {
  // The version, and the random number.
  let at = 2 + 32;
  at += 1 + hello.readUInt8(at);
  at += 2 + hello.readUInt16BE(at);
  at += 1 + hello.readUInt8(at);
  const end = at + 2 + hello.readUInt16BE(at);
  for (at += 2; at < end; ) {
    const type = hello.readUInt16BE(at);
    const length = hello.readUInt16BE(at + 2);
    if (type === SERVER_NAME) return hostNameOf(hello.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return '';
}

function hostNameOf(extension: Buffer): string {
  if (extension.readUInt8(2) !== HOST_NAME) return '';
  const name = extension.toString('latin1', 5, 5 + extension.readUInt16BE(3));
  return VALID_NAME.test(name) ? name : '';
}
