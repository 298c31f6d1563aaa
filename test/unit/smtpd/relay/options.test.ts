/** The options of a relay by URL. */

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { optionTable, parseOptions } from '../../../../lib/program/options.ts';
import { relayOptions } from '../../../../lib/smtpd/relay/options.ts';

it('all waits have a limit by default', () => {
  const { values } = parseOptions([], optionTable(relayOptions.rows));
  const { handshakeTimeout, connectTimeout, idleTimeout, relayIdleTimeout } = relayOptions.read(values);
  assert.deepEqual(
    { handshakeTimeout, connectTimeout, idleTimeout, relayIdleTimeout },
    { handshakeTimeout: 30_000, connectTimeout: 30_000, idleTimeout: 300_000, relayIdleTimeout: 3_600_000 },
  );
});
