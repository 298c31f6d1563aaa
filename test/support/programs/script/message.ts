import { createHash } from 'node:crypto';
import type { Input } from './input.ts';

/** Reads a message up to its final dot and gives its size in octets; "cut" when the input ends before. */
export async function readMessage(input: Input): Promise<string> {
  let size = 0;
  for (;;) {
    const line = await input.line();
    if (line === undefined) return 'cut';
    if (line.toString('latin1') === '.\r') return String(size);
    size += line.length + 1;
  }
}

/** Reads so many octets, or fewer when the input ends, and gives their SHA-256. */
export async function digestOf(input: Input, size: number): Promise<string> {
  const hash = createHash('sha256');
  for (let left = size; left > 0; ) {
    const bytes = await input.octets(left);
    if (bytes === undefined) break;
    hash.update(bytes);
    left -= bytes.length;
  }
  return hash.digest('hex');
}
