import { EXIT, Failure } from '../program/failure.ts';
import { readRegularFile } from './file.ts';

/** The length of the session ticket keys in octets: a name, an HMAC key and an AES key, 16 each. */
export const TICKET_KEYS_LENGTH = 48;

/**
 * Reads the keys that session tickets are encrypted with, from a file that several servers share: 48 raw octets, or
 * lines of base64 (RFC 4648) of 64 characters each. The first line is used; the others, previous or future keys,
 * must be well-formed as well.
 *
 * @returns 48 octets.
 * @throws Failure (100, or 111 when the file cannot be read) that names the fault and reveals nothing of the content.
 */
export function readTicketKeys(path: string): Buffer {
  const bytes = readRegularFile('ticket keys', path);
  if (bytes.length === TICKET_KEYS_LENGTH) return bytes;
  const lines = bytes
    .toString('latin1')
    .split(/\r?\n/)
    .filter((line) => line !== '');
  const wrong = lines.findIndex((line) => !/^[A-Za-z0-9+/]{64}$/.test(line));
  if (wrong >= 0) {
    throw refusal(path, `neither 48 octets nor lines of base64 of 64 characters (see line ${wrong + 1})`);
  }
  const first = lines[0];
  if (first === undefined) throw refusal(path, 'empty');
  return Buffer.from(first, 'base64');
}

function refusal(path: string, why: string): Failure {
  return new Failure(EXIT.wrongUsage, `unable to set up TLS: the ticket key file ${path} is ${why}`);
}
