/**
 * Loaded into smtpd-starttls-server by NODE_OPTIONS=--require: a worker ends at once, with status 3, while the file
 * that MORTAL_MARK names is there. The primary is left as it is.
 */

import { existsSync, readFileSync } from 'node:fs';

const mark = process.env.MORTAL_MARK;

if (mark !== undefined && isWorker() && existsSync(mark)) process.exit(3);

function isWorker(): boolean {
  return readFileSync(`/proc/${process.ppid}/cmdline`, 'latin1').includes('/smtpd-starttls-server\0');
}
