/** Errors that no program expects: here, that of printing to a full device. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { describe, it } from 'node:test';
import { ours } from '../support/programs.ts';

describe('an unexpected error', () => {
  for (const name of ['smtpd-maildir', 'smtpd-starttls-server', 'ucspi-tlsd']) {
    it(`is called that in one line on stderr, and the status is 111: ${name}`, () => {
      const full = openSync('/dev/full', 'w');
      const { status, stderr } = spawnSync(ours(name), ['--help'], {
        stdio: ['ignore', full, 'pipe'],
        encoding: 'latin1',
      });
      closeSync(full);
      assert.match(stderr, new RegExp(`^${name}: fatal: unexpected error: ENOSPC: [^\\n]+\\n$`));
      assert.equal(status, 111);
    });
  }
});
