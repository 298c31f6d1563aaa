/** Bytes that have arrived and were not consumed. They stay in the memory of the caller as long as possible. */
export interface BorrowedInput {
  /** Adds bytes, which must not change until `keep`. */
  push(bytes: Uint8Array): void;
  /** How many there are. */
  size(): number;
  /** All of them. */
  view(): Uint8Array;
  /** Removes the first `count`, or all if there are fewer, and returns them. */
  take(count: number): Uint8Array;
  /** The same with those up to the first LF, or all if there is none. */
  takeLine(): Uint8Array;
  /** Copies what is left: from now on, the memory of the caller may change. */
  keep(): void;
}

/**
 * Creates an input without bytes.
 *
 * @example
 * ```ts
 * const input = createBorrowedInput();
 * input.push(Buffer.from('DATA\r\nHi.'));
 * String(input.takeLine()); // => 'DATA\r\n'
 * input.size(); // => 3
 * ```
 */
export function createBorrowedInput(): BorrowedInput {
  let input = NOTHING;
  let isBorrowed = false;

  function take(count: number): Uint8Array {
    const bytes = input.subarray(0, count);
    input = input.subarray(count);
    return bytes;
  }

  return {
    push: (bytes) => {
      input = input.length === 0 ? bytes : Buffer.concat([input, bytes]);
      isBorrowed = true;
    },
    size: () => input.length,
    view: () => input,
    take,
    takeLine: () => take(input.indexOf(LF) + 1 || input.length),
    keep: () => {
      if (!isBorrowed) return;
      input = input.length === 0 ? NOTHING : Buffer.from(input);
      isBorrowed = false;
    },
  };
}

const NOTHING: Uint8Array = Buffer.alloc(0);
const LF = 0x0a;
