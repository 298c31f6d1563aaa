import type { Reporter } from '../program/reporter.ts';
import type { ChildEnd } from '../stream/child.ts';

/**
 * Says on stderr that smtpd has ended when it should not have, or did not even begin.
 *
 * @param what what happened, as the client sees it.
 * @param end why, as `endAfterOutput` gives it.
 */
export function reportEnd(report: Reporter, what: string, end: ChildEnd | undefined): void {
  if (end?.failure !== undefined) report.fatal(end.failure);
  else report.warning(`${what}: ${describeEnd(end)}`);
}

function describeEnd(end: ChildEnd | undefined): string {
  if (end === undefined) return 'it closed its output';
  return end.signal === undefined ? `exit status ${end.status}` : `killed by ${end.signal}`;
}
