import { EXIT, Failure } from '../program/failure.ts';
import { readRegularFile } from './file.ts';

/** How many octets the keys for session tickets have: a name, one for HMAC and one for AES, 16 each. */
export const TICKET_KEYS_LENGTH = 48;

/**
 * Reads the keys that session tickets are sealed with, as servers that share them have them in a file: 48
 * octets as they are, or lines of base64 (RFC 4648) of 64 characters each. Of several lines the first is in
 * use; the others, which are to come or have been, must be right too.
 *
 * @returns 48 octets.
 * @throws Failure (100, or 111 when the file cannot be read) that says what is wrong with it, and nothing of
 * what is in it.
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
  return new Failure(EXIT.wrongUsage, `unable to set up TLS: the file of ticket keys ${path} is ${why}`);
}
