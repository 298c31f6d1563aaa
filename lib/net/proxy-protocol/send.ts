/** PROXY protocol headers for outgoing connections; numbers in brackets as in receive.ts. */

import { addressOctets, addressText, type Endpoint } from '../address.ts';
import { COMMAND, FAMILY, TLV, V2_SIGNATURE, VERSION_2 } from './version-2.ts';

/**
 * Formats a version 1 header.
 *
 * @param remote the client; undefined when it is no longer known.
 * @param local the address that the client connected to.
 * @returns at most 107 octets; "PROXY UNKNOWN" when an address is missing or invalid, or when the families differ,
 * which version 1 cannot express.
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

/** The client's TLS session, as described in a header. */
export interface ProxyTls {
  /** OpenSSL's name, such as "TLSv1.3". */
  readonly protocol: string | undefined;
  /** OpenSSL's name, such as "TLS_AES_256_GCM_SHA384". */
  readonly cipher: string | undefined;
  /** The common name in the client certificate. Sent only when that was verified. */
  readonly commonName: string | undefined;
  /** Whether the client has sent a certificate that was verified. */
  readonly verified: boolean;
}

/**
 * Formats a version 2 header with the command PROXY.
 *
 * @param remote the client; undefined when it is no longer known.
 * @param local the address that the client connected to. When one address is IPv4 and the other IPv6, the IPv4
 * address is sent as IPv4-mapped; when one is missing or invalid, the family is UNSPEC and neither is sent.
 * @param tls the client's TLS session; undefined for cleartext.
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

/** A valid endpoint in network form. */
interface WireEndpoint {
  /** 4 or 16 octets. */
  readonly octets: Uint8Array;
  readonly port: number;
}

/** Undefined when the endpoint is missing, or its address or port is invalid. */
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

/** Converts the octets of an IPv4 address to IPv4-mapped IPv6 when `width` is 16. */
function widened(octets: Uint8Array, width: number): Uint8Array {
  if (octets.length === width) return octets;
  return Buffer.concat([Buffer.from('00000000000000000000ffff', 'hex'), octets]);
}

/** The client bit field [2.2.6]: TLS, a certificate on this connection, a certificate in this session. */
const CLIENT = { SSL: 0x01, CERT_CONN: 0x02, CERT_SESS: 0x04 };

/** Its value: the bit field, four octets that are zero only for a verified certificate, and nested TLVs. */
function formatTls({ protocol, cipher, commonName, verified }: ProxyTls): Buffer {
  // A certificate of this connection is also one of this session, and some receivers check only the latter bit.
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

/** Empty for an unknown or too long text: a truncated name could be the name of another client. */
function formatTextTlv(type: number, text: string | undefined): Buffer {
  const value = Buffer.from(text ?? '');
  return value.length === 0 || value.length > TEXT_LIMIT ? NOTHING : formatTlv(type, value);
}

function formatTlv(type: number, value: Buffer): Buffer {
  return Buffer.concat([Buffer.from([type, value.length >> 8, value.length & 0xff]), value]);
}
