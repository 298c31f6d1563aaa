import { closeSync } from 'node:fs';

/** Standard input, read by lines or by octets. */
export interface Input {
  /** The next line with its LF cut off; undefined at the end. */
  line(): Promise<Buffer | undefined>;
  /** The next octets, one at least and `most` at most; undefined at the end. */
  octets(most: number): Promise<Buffer | undefined>;
  /** Reads to the end, only for the record. */
  toEnd(): Promise<void>;
  /** Stops reading, for good. */
  stop(): void;
  /** Closes descriptor 0. */
  close(): void;
}

/** Reads standard input; `received` is called with everything. */
export function createInput(received: (bytes: Buffer) => void): Input {
  let pending: Buffer = Buffer.alloc(0);
  let over = false;
  let wake: () => void = () => {};
  /** The most octets that are read ahead. */
  const MOST_AHEAD = 262144;

  process.stdin.on('data', (bytes: Buffer) => {
    received(bytes);
    pending = pending.length === 0 ? bytes : Buffer.concat([pending, bytes]);
    if (pending.length > MOST_AHEAD) process.stdin.pause();
    wake();
  });
  for (const event of ['end', 'close', 'error']) {
    process.stdin.on(event, () => {
      over = true;
      wake();
    });
  }

  /** Waits for more; false when there is none to come. */
  async function more(): Promise<boolean> {
    if (over) return false;
    const before = pending.length;
    process.stdin.resume();
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
    return pending.length > before || !over;
  }

  function take(count: number): Buffer {
    const taken = pending.subarray(0, count);
    pending = pending.subarray(count);
    return taken;
  }

  return {
    line: async () => {
      for (;;) {
        const end = pending.indexOf('\n');
        if (end >= 0) return take(end + 1).subarray(0, end);
        if (!(await more())) return undefined;
      }
    },
    octets: async (most) => {
      while (pending.length === 0) if (!(await more())) return undefined;
      return take(Math.min(most, pending.length));
    },
    toEnd: async () => {
      do pending = Buffer.alloc(0);
      while (await more());
    },
    stop: () => process.stdin.pause(),
    close: () => {
      process.stdin.destroy();
      closeSync(0);
      over = true;
    },
  };
}
