/** How many calls pass per second. */
const MAX_PER_SECOND = 10;

/**
 * Creates a rate limit of ten per second, for log lines that clients can cause thousands of times a second.
 *
 * @returns a function that calls what it is given, or suppresses the call. It passes the number of calls that were
 * suppressed since the last one that was made; undefined for none.
 */
export function createRateLimit(): (write: (suppressed: number | undefined) => void) => void {
  let second = -1;
  let passed = 0;
  let suppressed = 0;
  return (write) => {
    const now = Math.floor(process.uptime());
    if (now !== second) passed = 0;
    second = now;
    if (passed >= MAX_PER_SECOND) {
      suppressed += 1;
      return;
    }
    passed += 1;
    write(suppressed === 0 ? undefined : suppressed);
    suppressed = 0;
  };
}
