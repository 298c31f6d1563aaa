/**
 * The PROXY protocol: a header with which a proxy begins a connection, to say whose connection it is. HAProxy
 * defines it (proxy-protocol.txt, below "the specification"; numbers in brackets are sections of it).
 *
 * Whoever may send a header may be any client it likes. So one is to be taken from proxies that are known,
 * and from those always: the specification forbids to guess whether there is one [2].
 */

import { isIPv4, isIPv6 } from 'node:net';
import { addressOctets, addressText, type Endpoint } from './address.ts';

/** Whose connection it is. */
export interface ProxyAddresses {
  /** The client, as the proxy sees it. */
  readonly remote: Endpoint;
  /** Where the client has connected to. */
  readonly local: Endpoint;
}

/** What has been found in the first bytes of a connection. */
export type ProxyParse =
  /** The beginning of a header; it takes more bytes to tell. */
  | { readonly type: 'more' }
  /** No header, whatever comes next. The connection is to be closed. */
  | { readonly type: 'bad'; readonly why: string }
  | {
      readonly type: 'header';
      /** Undefined when the header names none that are of use here: those of the connection itself stand. */
      readonly addresses: ProxyAddresses | undefined;
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
const V2_SIGNATURE = Buffer.from('0d0a0d0a000d0a515549540a', 'hex');

/** Where the addresses of version 2 begin: behind signature, version, family and length. */
const V2_START = 16;

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
  return bad('no header of the PROXY protocol');
}

/** Whether the bytes begin with `start`, or are its beginning. */
function beginsLike(received: Buffer, start: Buffer): boolean {
  const length = Math.min(received.length, start.length);
  return received.subarray(0, length).equals(start.subarray(0, length));
}

function bad(why: string): ProxyParse {
  return { type: 'bad', why };
}

const MORE: ProxyParse = { type: 'more' };

/** Version 1 [2.1]: "PROXY TCP4 192.0.2.1 198.51.100.1 56324 25" and CRLF. */
function parseV1(received: Buffer): ProxyParse {
  const line = received.subarray(0, PROXY_V1_LIMIT);
  const end = line.indexOf('\r\n');
  // What stands before a CR that is the last byte so far is over as well.
  const over = end !== -1 || line.at(-1) === 0x0d;
  const text = line.toString('latin1', 0, end !== -1 ? end : line.length - (over ? 1 : 0));
  const words = text.split(' ');
  const fault = /[\r\n]/.test(text) ? 'a CR or an LF without the other' : faultOfV1(words, over);
  if (fault !== undefined) return bad(`PROXY protocol version 1: ${fault}`);
  if (end !== -1)
    return { type: 'header', addresses: addressesOfV1(words), rest: received.subarray(end + 2) };
  if (line.length < PROXY_V1_LIMIT) return MORE;
  return bad(`PROXY protocol version 1: no CRLF in the first ${PROXY_V1_LIMIT} octets`);
}

const V1_FAMILIES = ['TCP4', 'TCP6', 'UNKNOWN'];

/** What may become an address. In TCP6 there are no zone ids, which Node would take. */
const PARTIAL_ADDRESS = { TCP4: /^[\d.]{0,15}$/, TCP6: /^[\da-f:.]{0,45}$/i };

const PARTIAL_PORT = /^(?:|0|[1-9]\d{0,4})$/;

/**
 * What is wrong with a line.
 *
 * @param words of the line, so far; the first is known to be good.
 * @param over whether the last word is whole, as all others are.
 */
function faultOfV1(words: readonly string[], over: boolean): string | undefined {
  const [, family = '', ...fields] = words;
  const isWhole = over || words.length > 2;
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

function isV1Address(field: string, family: string, isWhole: boolean): boolean {
  if (family === 'TCP4') return PARTIAL_ADDRESS.TCP4.test(field) && (!isWhole || isIPv4(field));
  return PARTIAL_ADDRESS.TCP6.test(field) && (!isWhole || isIPv6(field));
}

function isV1Port(field: string, isWhole: boolean): boolean {
  return PARTIAL_PORT.test(field) && Number(field) <= 65535 && (!isWhole || field !== '');
}

/** @param words of a line without a fault. */
function addressesOfV1([, family, ...fields]: readonly string[]): ProxyAddresses | undefined {
  const [remoteIp = '', localIp = '', remotePort, localPort] = fields;
  const remote = addressOctets(remoteIp);
  const local = addressOctets(localIp);
  if (family === 'UNKNOWN' || remote === undefined || local === undefined) return undefined;
  return {
    remote: { ip: addressText(remote), port: Number(remotePort) },
    local: { ip: addressText(local), port: Number(localPort) },
  };
}

const VERSION_2 = 0x20;
const COMMAND = { LOCAL: 0, PROXY: 1 };

/** The octet of address family and transport. */
const FAMILY = { UNSPEC: 0x00, TCP4: 0x11, UDP4: 0x12, TCP6: 0x21, UDP6: 0x22, UNIX: 0x31, UNIX_DGRAM: 0x32 };

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
  if (fault !== undefined) return bad(`PROXY protocol version 2: ${fault}`);
  if (received.length < V2_START || family === undefined) return MORE;

  const end = V2_START + received.readUInt16BE(V2_START - 2);
  if (end > PROXY_V2_LIMIT) return bad(`PROXY protocol version 2: ${end} octets, over ${PROXY_V2_LIMIT}`);
  // With LOCAL the family says nothing, and without a known family nobody knows where the TLVs begin.
  const isLocal = versionAndCommand === (VERSION_2 | COMMAND.LOCAL);
  const length = isLocal ? undefined : ADDRESSES_LENGTH.get(family);
  if (length !== undefined && V2_START + length > end) {
    return bad('PROXY protocol version 2: too short for its addresses');
  }
  if (received.length < end) return MORE;

  const header = received.subarray(0, end);
  const rest = received.subarray(end);
  if (length === undefined) return { type: 'header', addresses: undefined, rest };
  const wrong = faultOfTlvs(header, V2_START + length);
  if (wrong !== undefined) return bad(`PROXY protocol version 2: ${wrong}`);
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

/** @param length of the addresses: both addresses, then both ports. */
function addressesOfV2(header: Buffer, length: number): ProxyAddresses {
  const ports = V2_START + length - 4;
  const middle = (V2_START + ports) / 2;
  return {
    remote: { ip: addressText(header.subarray(V2_START, middle)), port: header.readUInt16BE(ports) },
    local: { ip: addressText(header.subarray(middle, ports)), port: header.readUInt16BE(ports + 2) },
  };
}

const TLV = { CRC32C: 0x03, SSL: 0x20, SSL_VERSION: 0x21, SSL_CN: 0x22, SSL_CIPHER: 0x23 };

/** What is wrong with the TLVs: a type, a length of two octets, a value. Only the checksum is looked at. */
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

/** The checksum is that of the header with zeros in its place [2.2.3]. */
function isChecksumRight(header: Buffer, at: number): boolean {
  const zeroed = Buffer.from(header);
  zeroed.writeUInt32BE(0, at);
  return crc32c(zeroed) === header.readUInt32BE(at);
}

/** The polynomial of CRC32C, its bits reversed (RFC 9260 appendix A). */
const CASTAGNOLI = 0x82f63b78;

/** Bit by bit: it is done once for a connection, over some hundred octets. node:zlib has another CRC-32. */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? CASTAGNOLI : 0);
  }
  return ~crc >>> 0;
}

/**
 * Writes a header of version 1.
 *
 * @param remote the client; undefined when it is not known any more.
 * @param local where the client has connected to.
 * @returns at most 107 octets; "PROXY UNKNOWN" when an address is none, or they are of different families,
 * which version 1 cannot say.
 */
export function formatProxyV1(remote: Endpoint | undefined, local: Endpoint | undefined): Buffer {
  const from = wireEndpoint(remote);
  const to = wireEndpoint(local);
  if (from === undefined || to === undefined || from.octets.length !== to.octets.length) {
    return Buffer.from('PROXY UNKNOWN\r\n');
  }
  const family = from.octets.length === 4 ? 'TCP4' : 'TCP6';
  const addresses = `${addressText(from.octets)} ${addressText(to.octets)}`;
  return Buffer.from(`PROXY ${family} ${addresses} ${from.port} ${to.port}\r\n`);
}

/** The octets of an endpoint, or undefined when it has no address or port that could be written. */
function wireEndpoint(endpoint: Endpoint | undefined): { octets: Uint8Array; port: number } | undefined {
  if (endpoint === undefined) return undefined;
  const octets = addressOctets(endpoint.ip);
  const { port } = endpoint;
  return octets !== undefined && Number.isInteger(port) && port >= 0 && port <= 65535
    ? { octets, port }
    : undefined;
}

/** What the receiver of a header is told of the client's TLS. */
export interface ProxyTls {
  /** As OpenSSL has it, such as "TLSv1.3". */
  readonly protocol: string | undefined;
  /** As OpenSSL has it, such as "TLS_AES_256_GCM_SHA384". */
  readonly cipher: string | undefined;
  /** The common name in the client's certificate. Told only when that was verified. */
  readonly commonName: string | undefined;
  /** Whether the client has shown a certificate that was verified. */
  readonly verified: boolean;
}

/**
 * Writes a header of version 2, with the command PROXY.
 *
 * @param remote the client; undefined when it is not known any more.
 * @param local where the client has connected to. When one address is IPv4 and one IPv6, the first goes as
 * IPv4-mapped IPv6; when one is none, the family is UNSPEC and neither goes.
 * @param tls what the client's TLS is like; undefined when it speaks cleartext.
 * @returns fewer than 1024 octets.
 */
export function formatProxyV2(
  remote: Endpoint | undefined,
  local: Endpoint | undefined,
  tls?: ProxyTls,
): Buffer {
  const { family, addresses } = formatV2Addresses(wireEndpoint(remote), wireEndpoint(local));
  const rest = Buffer.concat([addresses, tls === undefined ? NOTHING : formatTls(tls)]);
  const start = Buffer.from([VERSION_2 | COMMAND.PROXY, family, rest.length >> 8, rest.length & 0xff]);
  return Buffer.concat([V2_SIGNATURE, start, rest]);
}

const NOTHING = Buffer.alloc(0);

function formatV2Addresses(
  remote: ReturnType<typeof wireEndpoint>,
  local: ReturnType<typeof wireEndpoint>,
): { family: number; addresses: Buffer } {
  if (remote === undefined || local === undefined) return { family: FAMILY.UNSPEC, addresses: NOTHING };
  const width = Math.max(remote.octets.length, local.octets.length);
  const ports = Buffer.alloc(4);
  ports.writeUInt16BE(remote.port, 0);
  ports.writeUInt16BE(local.port, 2);
  return {
    family: width === 4 ? FAMILY.TCP4 : FAMILY.TCP6,
    addresses: Buffer.concat([widened(remote.octets, width), widened(local.octets, width), ports]),
  };
}

/** The octets of an IPv4 address as IPv4-mapped IPv6 where that is what is asked for. */
function widened(octets: Uint8Array, width: number): Uint8Array {
  if (octets.length === width) return octets;
  return Buffer.concat([Buffer.from('00000000000000000000ffff', 'hex'), octets]);
}

/** Bits that say what the client has [2.2.6]: TLS, a certificate on this connection, one in this session. */
const CLIENT = { SSL: 0x01, CERT_CONN: 0x02, CERT_SESS: 0x04 };

/** The value: the bits, four octets that are zero only for a verified certificate, and TLVs again. */
function formatTls({ protocol, cipher, commonName, verified }: ProxyTls): Buffer {
  // One that came on this connection is one of this session as well, and some receivers look for that alone.
  const bits = CLIENT.SSL | (verified ? CLIENT.CERT_CONN | CLIENT.CERT_SESS : 0);
  return formatTlv(
    TLV.SSL,
    Buffer.concat([
      Buffer.from([bits, 0, 0, 0, verified ? 0 : 1]),
      formatTextTlv(TLV.SSL_VERSION, protocol),
      formatTextTlv(TLV.SSL_CN, verified ? commonName : undefined),
      formatTextTlv(TLV.SSL_CIPHER, cipher),
    ]),
  );
}

/** The longest text in a TLV, in octets; a common name has at most 64 characters (RFC 5280 appendix A.1). */
const TEXT_LIMIT = 256;

/** Nothing for a text that is not known, or too long: a name cut short might be somebody else's. */
function formatTextTlv(type: number, text: string | undefined): Buffer {
  const value = Buffer.from(text ?? '');
  return value.length === 0 || value.length > TEXT_LIMIT ? NOTHING : formatTlv(type, value);
}

function formatTlv(type: number, value: Buffer): Buffer {
  return Buffer.concat([Buffer.from([type, value.length >> 8, value.length & 0xff]), value]);
}
