/**
 * Whether the checksum in a version 2 header is correct: the CRC32C of the header with zeros in its place [2.2.3].
 *
 * @param at the offset of its four octets.
 */
export function isChecksumRight(header: Buffer, at: number): boolean {
  const zeroed = Buffer.from(header);
  zeroed.writeUInt32BE(0, at);
  return crc32c(zeroed) === header.readUInt32BE(at);
}

/** The polynomial of CRC32C, its bits reversed (RFC 9260 appendix A). */
const CASTAGNOLI = 0x82f63b78;

/** Bitwise, as it runs once per connection, over a few hundred octets. node:zlib has a different CRC-32. */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? CASTAGNOLI : 0);
  }
  return ~crc >>> 0;
}
