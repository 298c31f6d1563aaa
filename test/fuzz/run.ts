import { type Entry, formatEntries } from '../support/transcript.ts';
import { playConnection } from './connection.ts';

/** What a run of the fuzzer found. */
export interface Finding {
  /** The connection that failed. */
  readonly number: number;
  readonly message: string;
  /** What happened in it, in the format of test/support/transcript.ts. */
  readonly transcript: string;
}

/**
 * Plays generated connections until one fails.
 *
 * @param seed names the run.
 * @param count how many connections to play, from number 0.
 * @param report is called every 100,000 connections with how many were played.
 * @returns undefined when all succeeded.
 */
export function run(seed: number, count: number, report?: (done: number) => void): Finding | undefined {
  for (let number = 0; number < count; number++) {
    try {
      playConnection(seed, number);
    } catch (error) {
      return describe(seed, number, error);
    }
    if ((number + 1) % 100_000 === 0) report?.(number + 1);
  }
  return undefined;
}

/** Plays a connection again, and records it. */
export function describe(seed: number, number: number, error: unknown): Finding {
  const entries: Entry[] = [];
  try {
    playConnection(seed, number, (entry) => entries.push(copy(entry)));
  } catch {
    // It fails as it did before.
  }
  const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
  const title = `# Fuzzer, seed ${seed}, connection ${number}\n`;
  return { number, message, transcript: title + formatEntries(entries) };
}

/** Packets are overwritten once they were read. */
function copy(entry: Entry): Entry {
  return 'bytes' in entry ? { type: entry.type, bytes: Buffer.from(entry.bytes) } : entry;
}
