import { existsSync } from 'node:fs';
import { missing } from './programs.ts';

/** Debian's package starts Prometheus, so .ci/run only unpacks this program of it, here. */
const UNPACKED = '/opt/prometheus/usr/bin/promtool';

/** The program of Prometheus that checks rules: its path, or its name if it is to be found on PATH. */
export const PROMTOOL = existsSync(UNPACKED) ? UNPACKED : 'promtool';

/** The reason to skip a test that needs it; see `missing`. */
export function noPromtool(): string | false {
  return missing(PROMTOOL);
}
