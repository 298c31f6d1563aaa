import { type Entry, formatEntries } from '../support/transcript.ts';
import { playConnection } from './connection.ts';

/** What a run of the fuzzer found. */
export interface Finding {
  /** The connection that went wrong. */
  readonly number: number;
  readonly message: string;
  /** What happened in it, in the format of test/support/transcript.ts. */
  readonly transcript: string;
}

/**
 * Plays made-up connections until one goes wrong.
 *
 * @param seed names the run.
 * @param count how many connections to play, from number 0.
 * @param tell is called every 100,000 connections with how many were played.
 * @returns undefined when all went well.
 */
export function run(seed: number, count: number, tell?: (done: number) => void): Finding | undefined {
  for (let number = 0; number < count; number++) {
    try {
      playConnection(seed, number);
    } catch (error) {
      return describe(seed, number, error);
    }
    if ((number + 1) % 100_000 === 0) tell?.(number + 1);
  }
  return undefined;
}

/** Plays a connection again, and this time writes it down. */
export function describe(seed: number, number: number, error: unknown): Finding {
  const entries: Entry[] = [];
  try {
    playConnection(seed, number, (entry) => entries.push(copy(entry)));
  } catch {
    // It goes wrong as it did before.
  }
  const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
  const title = `# Fuzzer, seed ${seed}, connection ${number}\n`;
  return { number, message, transcript: title + formatEntries(entries) };
}

/** Packets are overwritten once they were read. */
function copy(entry: Entry): Entry {
  return 'bytes' in entry ? { type: entry.type, bytes: Buffer.from(entry.bytes) } : entry;
}
