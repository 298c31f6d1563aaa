/** Gathers bytes that are to be written together. */
export interface WriteBuffer {
  /** Appends bytes. They are not copied, and must not change until they are written. */
  push(bytes: Uint8Array): void;
  /** How many octets there are. */
  size(): number;
  /** Returns everything in one Buffer, and empties the buffer. */
  take(): Buffer;
}

/**
 * Creates a buffer that gathers writes: replies that are written one by one are sent in a packet each, or delayed by
 * TCP until the one before is acknowledged.
 *
 * Memory: what was pushed since the last `take`. The caller bounds it: see `size`.
 *
 * @example
 * ```ts
 * const replies = createWriteBuffer();
 * replies.push(Buffer.from('250-mail.example\r\n'));
 * replies.push(Buffer.from('250 SIZE\r\n'));
 * replies.size(); // => 28
 * replies.take().toString(); // => '250-mail.example\r\n250 SIZE\r\n'
 * replies.size(); // => 0
 * ```
 */
export function createWriteBuffer(): WriteBuffer {
  let parts: Uint8Array[] = [];
  let octets = 0;
  return {
    push: (bytes) => {
      parts.push(bytes);
      octets += bytes.length;
    },
    size: () => octets,
    take: () => {
      const [first] = parts;
      // Most writes are of one piece, which need not be copied.
      const whole = parts.length === 1 && Buffer.isBuffer(first) ? first : Buffer.concat(parts, octets);
      parts = [];
      octets = 0;
      return whole;
    },
  };
}
