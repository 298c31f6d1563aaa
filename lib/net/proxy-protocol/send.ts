/** Headers of the PROXY protocol for whom we connect to; numbers in brackets as in receive.ts. */

import { addressOctets, addressText, type Endpoint } from '../address.ts';
import { COMMAND, FAMILY, TLV, V2_SIGNATURE, VERSION_2 } from './version-2.ts';

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

/** An endpoint that can be written. */
interface WireEndpoint {
  /** 4 or 16. */
  readonly octets: Uint8Array;
  readonly port: number;
}

/** Undefined when there is no address or port that could be written. */
function wireEndpoint(endpoint: Endpoint | undefined): WireEndpoint | undefined {
  if (endpoint === undefined) return undefined;
  const octets = addressOctets(endpoint.ip);
  const { port } = endpoint;
  const isPort = Number.isInteger(port) && port >= 0 && port <= 65535;
  return octets !== undefined && isPort ? { octets, port } : undefined;
}

const NOTHING = Buffer.alloc(0);

function formatV2Addresses(
  remote: WireEndpoint | undefined,
  local: WireEndpoint | undefined,
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
