/** How many lines are said in a second. */
const MOST = 10;

/**
 * Lets through what strangers can make happen thousands of times a second, ten times a second, so that a log
 * does not drown in it.
 *
 * @returns a function that says something, or does not. What it calls is told how much was left suppressed since
 * the last time; undefined for nothing.
 */
export function createRateLimit(): (say: (suppressed: number | undefined) => void) => void {
  let second = -1;
  let said = 0;
  let suppressed = 0;
  return (say) => {
    const now = Math.floor(process.uptime());
    if (now !== second) said = 0;
    second = now;
    if (said >= MOST) {
      suppressed += 1;
      return;
    }
    said += 1;
    say(suppressed === 0 ? undefined : suppressed);
    suppressed = 0;
  };
}
