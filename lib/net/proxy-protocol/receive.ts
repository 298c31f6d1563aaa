/**
 * The PROXY protocol: a header with which a proxy begins a connection, to say whose connection it is. HAProxy
 * defines it (proxy-protocol.txt, below "the specification"; numbers in brackets are sections of it).
 *
 * Whoever may send a header may be any client it likes. So one is to be taken from proxies that are known,
 * and from those always: the specification forbids to guess whether there is one [2].
 */

import { isIPv4, isIPv6 } from 'node:net';
import { addressOctets, addressText } from '../address.ts';
import type { Endpoints } from '../endpoints.ts';
import { isChecksumRight } from './checksum.ts';
import { COMMAND, FAMILY, TLV, V2_SIGNATURE, VERSION_2 } from './version-2.ts';

/** What has been found in the first bytes of a connection. */
export type ProxyParse =
  /** The beginning of a header; it takes more bytes to tell. */
  | { readonly type: 'more' }
  /** No header, whatever comes next. The connection is to be closed. */
  | { readonly type: 'bad'; readonly why: string }
  | {
      readonly type: 'header';
      /**
       * The client as the proxy sees it, and where that has connected to. Undefined when the header names
       * none that are of use here: those of the connection itself stand.
       */
      readonly addresses: Endpoints | undefined;
      /** What came behind the header. Shares its memory with what was given. */
      readonly rest: Buffer;
    };

/** The longest header of version 1, its CRLF with it, in octets [2.1]. */
export const PROXY_V1_LIMIT = 107;

/**
 * The longest header of version 2 that is taken, in octets. The format would allow 65551, but the
 * specification wants it to fit in one segment of 536 [2]; certificates and the like make some longer.
 */
export const PROXY_V2_LIMIT = 4096;

const V1_START = Buffer.from('PROXY ');

/**
 * Reads the header that a connection begins with, of version 1 or 2.
 *
 * Bytes that begin no header are told at the first wrong one, and so are those of version 1 that no field
 * may have. The contents of a field are looked at when its end has come, those of version 2 behind its length
 * when all have. Nothing is thrown, whatever comes.
 *
 * Addresses come in one form however they were written; an IPv4-mapped one is IPv4. They are undefined for a
 * connection of the proxy's own (LOCAL), and where the client's is not known (UNKNOWN, UNSPEC) or not TCP.
 *
 * @param received all bytes so far. While the answer is 'more' they are fewer than 4096.
 */
export function parseProxyHeader(received: Buffer): ProxyParse {
  if (beginsLike(received, V1_START)) return parseV1(received);
  if (beginsLike(received, V2_SIGNATURE)) return parseV2(received);
  return { type: 'bad', why: 'no header of the PROXY protocol' };
}

/** Whether the bytes begin with `start`, or are its beginning. */
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
  // A CR that is the last octet so far ends the text as well.
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
 * What is wrong with a line.
 *
 * @param words of the line, so far; the first is known to be good.
 * @param over whether the last word is whole, as all others are.
 */
function faultOfV1(words: readonly string[], over: boolean): string | undefined {
  const [, family = '', ...fields] = words;
  const isWhole = over || fields.length > 0;
  if (!V1_FAMILIES.some((name) => (isWhole ? name === family : name.startsWith(family)))) {
    return 'a family that is none of TCP4, TCP6 and UNKNOWN';
  }
  // Whatever follows is to be ignored.
  if (family === 'UNKNOWN') return undefined;
  if (fields.length > 4) return 'more than two addresses and two ports';
  const wrong = fields.findIndex((field, at) => {
    const isFieldWhole = over || at < fields.length - 1;
    return at < 2 ? !isV1Address(field, family, isFieldWhole) : !isV1Port(field, isFieldWhole);
  });
  if (wrong !== -1) return `no ${wrong < 2 ? `address of ${family}` : 'port'} as field ${wrong + 1}`;
  return over && fields.length < 4 ? 'fewer than two addresses and two ports' : undefined;
}

/** What may become an address. In TCP6 there are no zone ids, which Node would take. */
const PARTIAL_ADDRESS = { TCP4: /^[\d.]{0,15}$/, TCP6: /^[\da-f:.]{0,45}$/i };

function isV1Address(field: string, family: string, isWhole: boolean): boolean {
  if (family === 'TCP4') return PARTIAL_ADDRESS.TCP4.test(field) && (!isWhole || isIPv4(field));
  return PARTIAL_ADDRESS.TCP6.test(field) && (!isWhole || isIPv6(field));
}

const PARTIAL_PORT = /^(?:|0|[1-9]\d{0,4})$/;

function isV1Port(field: string, isWhole: boolean): boolean {
  return PARTIAL_PORT.test(field) && Number(field) <= 65535 && (!isWhole || field !== '');
}

/** @param words of a line without a fault. */
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

/** Where the addresses of version 2 begin: behind signature, version, family and length. */
const V2_START = 16;

/** How many octets of addresses there are. All behind them are TLVs. */
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
  // With LOCAL the family says nothing, and without a known family nobody knows where the TLVs begin.
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

/** What is wrong with the two octets behind the signature; either is undefined until it comes. */
function faultOfV2Start(versionAndCommand = VERSION_2, family = FAMILY.UNSPEC): string | undefined {
  if ((versionAndCommand & 0xf0) !== VERSION_2) return 'another version';
  const command = versionAndCommand & 0x0f;
  if (command > COMMAND.PROXY) return 'an unknown command';
  if (command === COMMAND.LOCAL) return undefined;
  return family >> 4 > 3 || (family & 0x0f) > 2 ? 'an unknown family or transport' : undefined;
}

/** What is wrong with the TLVs, of which only the checksum is looked at. */
function faultOfTlvs(header: Buffer, start: number): string | undefined {
  let isChecked = false;
  for (let at = start; at < header.length; ) {
    if (at + 3 > header.length) return 'a TLV that leads out of it';
    const end = at + 3 + header.readUInt16BE(at + 1);
    if (end > header.length) return 'a TLV that leads out of it';
    if (header.readUInt8(at) === TLV.CRC32C) {
      // One is enough, and many would be a way to keep this process busy.
      if (isChecked || end !== at + 7) return 'a checksum of another length, or a second one';
      if (!isChecksumRight(header, at + 3)) return 'a wrong checksum';
      isChecked = true;
    }
    at = end;
  }
  return undefined;
}

/** @param length of the addresses: both addresses, then both ports. */
function addressesOfV2(header: Buffer, length: number): Endpoints {
  const ports = V2_START + length - 4;
  const middle = (V2_START + ports) / 2;
  return {
    remote: { ip: addressText(header.subarray(V2_START, middle)), port: header.readUInt16BE(ports) },
    local: { ip: addressText(header.subarray(middle, ports)), port: header.readUInt16BE(ports + 2) },
  };
}
