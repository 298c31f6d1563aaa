import { createHash, randomBytes } from 'node:crypto';
import { writeSync } from 'node:fs';
import { setImmediate, setTimeout } from 'node:timers/promises';
import type { Input } from './input.ts';

/**
 * Reads and writes random octets, both at the same time.
 *
 * @param text the number of octets each way, and "slowly" where the reading is to be slow.
 * @returns the SHA-256 of what was read, and that of what was written.
 */
export async function exchangeBulk(input: Input, text: string): Promise<string> {
  const [size, slowly] = text.split(' ');
  return (await Promise.all([take(input, Number(size), slowly === 'slowly'), give(Number(size))])).join(' ');
}

async function take(input: Input, size: number, slowly: boolean): Promise<string> {
  const hash = createHash('sha256');
  for (let left = size; left > 0; ) {
    const bytes = await input.octets(Math.min(left, 65536));
    if (bytes === undefined) break;
    hash.update(bytes);
    left -= bytes.length;
    if (slowly) await setTimeout(1);
  }
  return hash.digest('hex');
}

async function give(size: number): Promise<string> {
  const hash = createHash('sha256');
  for (let left = size; left > 0; ) {
    const piece = randomBytes(Math.min(left, 65536));
    for (let done = 0; done < piece.length; ) done += writeSync(1, piece, done);
    hash.update(piece);
    left -= piece.length;
    // The writer must not block the reader.
    await setImmediate();
  }
  return hash.digest('hex');
}
