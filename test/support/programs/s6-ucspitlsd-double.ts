/** Does what s6-ucspitlsd does, where a program can tell. */

import { runDouble } from './double/run.ts';
import { describeAsS6 } from './double/s6.ts';

void runDouble({
  numbers: { control: 3, read: 4, write: 5 },
  environment: {},
  describe: describeAsS6,
  closesControl: true,
  terminates: false,
});
