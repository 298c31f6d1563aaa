/**
 * The PROXY protocol: a header that a proxy sends at the start of a connection to identify the client. HAProxy
 * defines it (proxy-protocol.txt, below "the specification"; numbers in brackets are sections of it).
 *
 * A peer that may send a header can claim any client address. So a header is accepted only from known proxies, and
 * required from them: the specification forbids guessing whether there is one [2].
 */

import { isIPv4, isIPv6 } from 'node:net';
import { addressOctets, addressText } from '../address.ts';
import type { Endpoints } from '../endpoints.ts';
import { isChecksumRight } from './checksum.ts';
import { COMMAND, FAMILY, TLV, V2_SIGNATURE, VERSION_2 } from './version-2.ts';

/** The result of parsing the first bytes of a connection. */
export type ProxyParse =
  /** The beginning of a header; more bytes are needed. */
  | { readonly type: 'more' }
  /** Not a valid header, whatever follows. The connection must be closed. */
  | { readonly type: 'bad'; readonly why: string }
  | {
      readonly type: 'header';
      /**
       * The client as the proxy sees it, and the address that the client connected to. Undefined when the header
       * gives no TCP addresses: those of the connection itself are used then.
       */
      readonly addresses: Endpoints | undefined;
      /** The bytes after the header. Shares memory with the input. */
      readonly rest: Buffer;
    };

/** The longest version 1 header including CRLF, in octets [2.1]. */
export const PROXY_V1_LIMIT = 107;

/**
 * The longest accepted version 2 header, in octets. The format allows 65551, but the specification requires a
 * header to fit in one segment of 536 [2]; TLVs such as certificates make some headers longer.
 */
export const PROXY_V2_LIMIT = 4096;

const V1_START = Buffer.from('PROXY ');

/**
 * Parses the header at the start of a connection, of version 1 or 2. Never throws.
 *
 * Bytes that cannot begin a header are rejected at the first wrong octet, and so are octets that are not allowed in
 * a field of version 1. The value of a field is checked when the field is complete; in version 2, what follows the
 * length is checked when the header is complete.
 *
 * Addresses are returned in canonical form, IPv4-mapped ones as IPv4. They are undefined for a connection of the
 * proxy itself (LOCAL), and when the client is unknown (UNKNOWN, UNSPEC) or not connected by TCP.
 *
 * @param received all bytes so far. While the result is 'more' they are fewer than 4096.
 *
 * @example
 * ```ts
 * const header = Buffer.from('PROXY TCP4 192.0.2.1 198.51.100.1 56324 25\r\n');
 * const remote = { ip: '192.0.2.1', port: 56324 };
 * const local = { ip: '198.51.100.1', port: 25 };
 * const rest = Buffer.from('EHLO ');
 * parseProxyHeader(Buffer.concat([header, rest])); // => { type: 'header', addresses: { remote, local }, rest }
 * parseProxyHeader(header.subarray(0, 20)); // => { type: 'more' }
 * parseProxyHeader(rest); // => { type: 'bad', why: 'not a PROXY protocol header' }
 * ```
 */
export function parseProxyHeader(received: Buffer): ProxyParse {
  if (beginsLike(received, V1_START)) return parseV1(received);
  if (beginsLike(received, V2_SIGNATURE)) return parseV2(received);
  return { type: 'bad', why: 'not a PROXY protocol header' };
}

/** Whether the bytes begin with `start`, or `start` begins with the bytes. */
function beginsLike(received: Buffer, start: Buffer): boolean {
  const length = Math.min(received.length, start.length);
  return received.subarray(0, length).equals(start.subarray(0, length));
}

function bad(version: 1 | 2, fault: string): ProxyParse {
  return { type: 'bad', why: `PROXY protocol version ${version}: ${fault}` };
}

const MORE: ProxyParse = { type: 'more' };

/** Version 1 [2.1]: "PROXY TCP4 192.0.2.1 198.51.100.1 56324 25" and CRLF. */
function parseV1(received: Buffer): ProxyParse {
  const line = received.toString('latin1', 0, PROXY_V1_LIMIT);
  // A CR that is the last octet so far also ends the text.
  const [text = ''] = line.split(/\r\n|\r$/, 1);
  if (/[\r\n]/.test(text)) return bad(1, 'a CR or an LF without the other');
  const words = text.split(' ');
  const fault = faultOfV1(words, text.length < line.length);
  if (fault !== undefined) return bad(1, fault);
  const end = text.length + 2;
  if (line.length >= end)
    return { type: 'header', addresses: addressesOfV1(words), rest: received.subarray(end) };
  if (line.length < PROXY_V1_LIMIT) return MORE;
  return bad(1, `no CRLF in the first ${PROXY_V1_LIMIT} octets`);
}

const V1_FAMILIES = ['TCP4', 'TCP6', 'UNKNOWN'];

/**
 * Finds the fault of a line.
 *
 * @param words of the line so far; the first is known to be valid.
 * @param isComplete whether the last word is complete; all others are.
 */
function faultOfV1(words: readonly string[], isComplete: boolean): string | undefined {
  const [, family = '', ...fields] = words;
  const isWhole = isComplete || fields.length > 0;
  if (!V1_FAMILIES.some((name) => (isWhole ? name === family : name.startsWith(family)))) {
    return 'the family is not TCP4, TCP6 or UNKNOWN';
  }
  // The rest of the line must be ignored.
  if (family === 'UNKNOWN') return undefined;
  if (fields.length > 4) return 'more than two addresses and two ports';
  const wrong = fields.findIndex((field, at) => {
    const isFieldWhole = isComplete || at < fields.length - 1;
    return at < 2 ? !isV1Address(field, family, isFieldWhole) : !isV1Port(field, isFieldWhole);
  });
  if (wrong !== -1) return `field ${wrong + 1} is not a ${wrong < 2 ? `${family} address` : 'port'}`;
  return isComplete && fields.length < 4 ? 'fewer than two addresses and two ports' : undefined;
}

/** Beginnings of addresses. No zone ids in TCP6, which `isIPv6` of Node would accept. */
const PARTIAL_ADDRESS = { TCP4: /^[\d.]{0,15}$/, TCP6: /^[\da-f:.]{0,45}$/i };

function isV1Address(field: string, family: string, isWhole: boolean): boolean {
  if (family === 'TCP4') return PARTIAL_ADDRESS.TCP4.test(field) && (!isWhole || isIPv4(field));
  return PARTIAL_ADDRESS.TCP6.test(field) && (!isWhole || isIPv6(field));
}

const PARTIAL_PORT = /^(?:|0|[1-9]\d{0,4})$/;

function isV1Port(field: string, isWhole: boolean): boolean {
  return PARTIAL_PORT.test(field) && Number(field) <= 65535 && (!isWhole || field !== '');
}

/** @param words of a valid line. */
function addressesOfV1([, family, ...fields]: readonly string[]): Endpoints | undefined {
  const [remoteIp = '', localIp = '', remotePort, localPort] = fields;
  const remote = addressOctets(remoteIp);
  const local = addressOctets(localIp);
  if (family === 'UNKNOWN' || remote === undefined || local === undefined) return undefined;
  return {
    remote: { ip: addressText(remote), port: Number(remotePort) },
    local: { ip: addressText(local), port: Number(localPort) },
  };
}

/** The offset of the addresses in version 2: after signature, version, family and length. */
const V2_START = 16;

/** The length of the addresses in octets, by family. TLVs follow them. */
const ADDRESSES_LENGTH: ReadonlyMap<number, number> = new Map([
  [FAMILY.TCP4, 12],
  [FAMILY.UDP4, 12],
  [FAMILY.TCP6, 36],
  [FAMILY.UDP6, 36],
  [FAMILY.UNIX, 216],
  [FAMILY.UNIX_DGRAM, 216],
]);

/** Version 2 [2.2]: signature, version and command, family, the length of the rest; addresses; TLVs. */
function parseV2(received: Buffer): ProxyParse {
  const [versionAndCommand, family] = received.subarray(V2_SIGNATURE.length);
  const fault = faultOfV2Start(versionAndCommand, family);
  if (fault !== undefined) return bad(2, fault);
  if (received.length < V2_START || family === undefined) return MORE;

  const end = V2_START + received.readUInt16BE(V2_START - 2);
  if (end > PROXY_V2_LIMIT) return bad(2, `${end} octets, over ${PROXY_V2_LIMIT}`);
  // With LOCAL the family is ignored, and without a known family the offset of the TLVs is unknown.
  const isLocal = versionAndCommand === (VERSION_2 | COMMAND.LOCAL);
  const length = isLocal ? undefined : ADDRESSES_LENGTH.get(family);
  if (length !== undefined && V2_START + length > end) return bad(2, 'too short for its addresses');
  if (received.length < end) return MORE;

  const header = received.subarray(0, end);
  const rest = received.subarray(end);
  if (length === undefined) return { type: 'header', addresses: undefined, rest };
  const wrong = faultOfTlvs(header, V2_START + length);
  if (wrong !== undefined) return bad(2, wrong);
  const isTcp = family === FAMILY.TCP4 || family === FAMILY.TCP6;
  return { type: 'header', addresses: isTcp ? addressesOfV2(header, length) : undefined, rest };
}

/** Finds the fault of the two octets after the signature; either is undefined until it is received. */
function faultOfV2Start(versionAndCommand = VERSION_2, family = FAMILY.UNSPEC): string | undefined {
  if ((versionAndCommand & 0xf0) !== VERSION_2) return 'unsupported version';
  const command = versionAndCommand & 0x0f;
  if (command > COMMAND.PROXY) return 'unknown command';
  if (command === COMMAND.LOCAL) return undefined;
  return family >> 4 > 3 || (family & 0x0f) > 2 ? 'unknown family or transport' : undefined;
}

/** Finds the fault of the TLVs; only the value of the checksum is examined. */
function faultOfTlvs(header: Buffer, start: number): string | undefined {
  let isChecked = false;
  for (let at = start; at < header.length; ) {
    if (at + 3 > header.length) return 'a TLV exceeds the header';
    const end = at + 3 + header.readUInt16BE(at + 1);
    if (end > header.length) return 'a TLV exceeds the header';
    if (header.readUInt8(at) === TLV.CRC32C) {
      // Only one is accepted: a sender could include many to consume CPU time.
      if (isChecked || end !== at + 7) return 'a checksum of invalid length, or a second one';
      if (!isChecksumRight(header, at + 3)) return 'wrong checksum';
      isChecked = true;
    }
    at = end;
  }
  return undefined;
}

/** @param length of the address block: both addresses, then both ports. */
function addressesOfV2(header: Buffer, length: number): Endpoints {
  const ports = V2_START + length - 4;
  const middle = (V2_START + ports) / 2;
  return {
    remote: { ip: addressText(header.subarray(V2_START, middle)), port: header.readUInt16BE(ports) },
    local: { ip: addressText(header.subarray(middle, ports)), port: header.readUInt16BE(ports + 2) },
  };
}
