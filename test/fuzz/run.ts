import { type Entry, formatEntries } from '../support/transcript.ts';

/**
 * Plays one generated case.
 *
 * @param seed and
 * @param number name the case: it is the same whenever they are.
 * @param record receives everything that happens, for a transcript.
 * @throws Violation, or what the code under test throws.
 */
export type Play = (seed: number, number: number, record?: (entry: Entry) => void) => void | Promise<void>;

/** What a run of the fuzzer found. */
export interface Finding {
  /** The case that failed. */
  readonly number: number;
  readonly message: string;
  /** What happened in it, in the format of test/support/transcript.ts. */
  readonly transcript: string;
}

/**
 * Plays generated cases until one fails.
 *
 * @param seed names the run.
 * @param count how many cases to play, from number 0.
 * @param report is called every 100,000 cases with how many were played.
 * @returns undefined when all succeeded.
 */
export async function run(
  play: Play,
  seed: number,
  count: number,
  report?: (done: number) => void,
): Promise<Finding | undefined> {
  for (let number = 0; number < count; number++) {
    try {
      const played = play(seed, number);
      // Waiting costs more than a short case.
      if (played !== undefined) await played;
    } catch (error) {
      return describe(play, seed, number, error);
    }
    if ((number + 1) % 100_000 === 0) report?.(number + 1);
  }
  return undefined;
}

/** Plays a case again, and records it. */
export async function describe(play: Play, seed: number, number: number, error: unknown): Promise<Finding> {
  const entries: Entry[] = [];
  try {
    await play(seed, number, (entry) => entries.push(copy(entry)));
  } catch {
    // It fails as it did before.
  }
  const message = error instanceof Error ? (error.stack ?? error.message) : String(error);
  const title = `# Fuzzer, seed ${seed}, case ${number}\n`;
  return { number, message, transcript: title + formatEntries(entries) };
}

/** Packets are overwritten once they were read. */
function copy(entry: Entry): Entry {
  return 'bytes' in entry ? { type: entry.type, bytes: Buffer.from(entry.bytes) } : entry;
}
