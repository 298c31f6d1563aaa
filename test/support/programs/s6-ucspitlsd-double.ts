/** Behaves like s6-ucspitlsd, as far as a program can observe. */

import { runDouble } from './double/run.ts';
import { describeAsS6 } from './double/s6.ts';

void runDouble({
  numbers: { control: 3, read: 4, write: 5 },
  environment: {},
  describe: describeAsS6,
  closesControl: true,
  terminates: false,
});
