/** Constants of PROXY protocol version 2, for sender and receiver; numbers in brackets as in receive.ts. */

/** The first octets of every header [2.2]. */
export const V2_SIGNATURE = Buffer.from('0d0a0d0a000d0a515549540a', 'hex');

/** The upper half of the octet after the signature; the lower half is the command. */
export const VERSION_2 = 0x20;
export const COMMAND = { LOCAL: 0, PROXY: 1 };

/** The octet of address family and transport. */
export const FAMILY = {
  UNSPEC: 0x00,
  TCP4: 0x11,
  UDP4: 0x12,
  TCP6: 0x21,
  UDP6: 0x22,
  UNIX: 0x31,
  UNIX_DGRAM: 0x32,
};

/** Types of the TLVs after the addresses: a type, a length of two octets, a value. */
export const TLV = { CRC32C: 0x03, SSL: 0x20, SSL_VERSION: 0x21, SSL_CN: 0x22, SSL_CIPHER: 0x23 };
