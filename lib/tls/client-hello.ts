import type { Duplex } from 'node:stream';
import { readUntil } from '../stream/read-until.ts';

/** How much of a ClientHello is examined, in octets; those of today have at most two thousand. */
const HELLO_LIMIT = 16384;

const HANDSHAKE_RECORD = 22;
const CLIENT_HELLO = 1;
/** The header of a handshake message: its type, and three octets of length. */
const HEADER_LENGTH = 4;
const SERVER_NAME = 0;
const HOST_NAME = 0;

/** The characters of a server name (RFC 6066 section 3), and `_`, which some names contain. */
const VALID_NAME = /^[A-Za-z0-9._-]{1,255}$/;

/**
 * Reads the server name that a client requests, before the TLS handshake. The bytes that were read are put back.
 *
 * Node also gives the name, but during the handshake, when a certificate is already chosen: the one selected by
 * name is only added to it, and a client that supports both key types may get the wrong one. Node gives no name
 * for a resumed session of TLS 1.2.
 *
 * @returns the name as `findServerName` returns it; also empty when the bytes are not a ClientHello, which the TLS
 * engine then rejects.
 * @throws Error when the connection ends first.
 */
export async function peekServerName(connection: Duplex): Promise<string> {
  const { name } = await readUntil(connection, 'the ClientHello', (received) => {
    const name = findServerName(received);
    return name === undefined ? undefined : { name, rest: received };
  });
  return name;
}

/**
 * Finds the server name (RFC 6066 section 3) in the bytes received so far.
 *
 * @returns letters, digits, `-`, `_` and dots, at most 255: the name goes into the environment of an smtpd, and
 * into logs. Empty when there is no name or an invalid one; undefined when more bytes are needed.
 */
export function findServerName(received: Buffer): string | undefined {
  try {
    const hello = joinRecords(received);
    if (hello === undefined) return received.length > HELLO_LIMIT ? '' : undefined;
    return serverNameOf(hello);
  } catch (error) {
    // A length field points past the end of the message.
    if (error instanceof RangeError) return '';
    throw error;
  }
}

/** The body of the first handshake message, which may span several records; undefined until it is complete. */
function joinRecords(received: Buffer): Buffer | undefined {
  const parts: Buffer[] = [];
  let octets = 0;
  let length = HEADER_LENGTH;
  for (let at = 0; at < received.length; ) {
    if (received.readUInt8(at) !== HANDSHAKE_RECORD) return NOTHING;
    if (at + 5 > received.length) return undefined;
    const end = at + 5 + received.readUInt16BE(at + 3);
    // Empty records are forbidden (RFC 8446 section 5.1), and a client could send many to consume CPU time.
    if (end === at + 5) return NOTHING;
    const part = received.subarray(at + 5, end);
    if (octets === 0 && part.length > 0 && part.readUInt8(0) !== CLIENT_HELLO) return NOTHING;
    parts.push(part);
    octets += part.length;
    if (octets >= length) {
      // At most twice: when the header is complete, and when the message is.
      const message = Buffer.concat(parts);
      length = HEADER_LENGTH + message.readUIntBE(1, 3);
      if (octets >= length) return message.subarray(HEADER_LENGTH, length);
    }
    at = end;
  }
  return undefined;
}

/** A message without a body: every read from it throws a RangeError. */
const NOTHING = Buffer.alloc(0);

/** Reads a ClientHello (RFC 8446 section 4.1.2) up to its server name. @throws RangeError when it is truncated. */
function serverNameOf(hello: Buffer): string {
  // Skip the version and the random number.
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
