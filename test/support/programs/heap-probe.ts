/**
 * Loaded into a program by NODE_OPTIONS=--require: at SIGUSR2 it collects garbage and writes one line of JSON to
 * the file that HEAP_PROBE names, with the number of its process behind: see `Vitals` in
 * test/reliability/vitals.ts.
 */

import { renameSync, writeFileSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

const file = process.env.HEAP_PROBE;

if (file !== undefined) {
  setFlagsFromString('--expose-gc');
  const collect: () => void = runInNewContext('gc');
  process.on('SIGUSR2', () => {
    // What the first one lets go of may hold more: streams, their handles, their requests.
    collect();
    setImmediate(() => {
      collect();
      write(`${file}.${process.pid}`);
    });
  });
}

function write(to: string): void {
  const resources: Record<string, number> = {};
  for (const name of process.getActiveResourcesInfo()) resources[name] = (resources[name] ?? 0) + 1;
  const { heapUsed, external } = process.memoryUsage();
  writeFileSync(`${to}.new`, JSON.stringify({ heap: heapUsed, external, resources }));
  // A process that waits for the file finds it complete or not at all.
  renameSync(`${to}.new`, to);
}
