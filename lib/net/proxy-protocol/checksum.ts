/**
 * Whether the checksum in a header of version 2 is that of the header with zeros in its place [2.2.3].
 *
 * @param at where its four octets are.
 */
export function isChecksumRight(header: Buffer, at: number): boolean {
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
