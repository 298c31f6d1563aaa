import { statSync } from 'node:fs';
import { EXIT, Failure } from '../../program/failure.ts';
import type { Reporter } from '../../program/reporter.ts';
import { parseSrsKeys } from '../../srs/keys.ts';
import type { SrsSettings } from '../../srs/srs.ts';
import { readRegularFile } from '../../tls/file.ts';

/** One to write, and one before it until its last address has expired. */
const FEW = 2;

/**
 * Reads a file of keys, see `parseSrsKeys`, and reports how many there are; and whether they are too many, or others may
 * read them, as a warning.
 *
 * @param option the option that names the file, for messages.
 * @throws Failure: 100 when there is no key, and as in `readRegularFile`.
 */
export function readSrsKeysFile(option: string, path: string, report: Reporter): SrsSettings['keys'] {
  const content = readRegularFile(option, path);
  const { keys, lines } = parseSrsKeys(content);
  const [first, ...others] = keys;
  if (first === undefined)
    throw new Failure(EXIT.wrongUsage, `unable to use ${option} ${path}: no key in it`);
  report.info(
    `${keys.length} SRS ${keys.length === 1 ? 'key' : 'keys'} in ${lines} ${lines === 1 ? 'line' : 'lines'} of ${path}`,
  );
  if (keys.length > FEW) {
    report.warning(`${keys.length} SRS keys in ${path}: each makes it easier to guess a valid SRS address`);
  }
  const mode = statSync(path, { throwIfNoEntry: false })?.mode ?? 0;
  if ((mode & 0o077) !== 0) {
    const octal = (mode & 0o777).toString(8);
    report.warning(`others may read the SRS keys in ${path}: its mode is ${octal}, not 600`);
  }
  return [first, ...others];
}
