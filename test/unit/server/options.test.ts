import assert from 'node:assert/strict';
import { it } from 'node:test';
import { readServerOptions } from '../../../lib/server/options.ts';

it('limits the relay with a server of others, and leaves an smtpd to its own timeouts', async () => {
  for (const [values, words, timeout] of [
    [{}, ['smtpd'], undefined],
    [{ to: 'smtp://far.example' }, [], 3_600_000],
    [{ routes: 'routes' }, [], 3_600_000],
    [{ routes: 'routes', 'relay-idle-timeout': '5' }, [], 5000],
  ] as const) {
    const { terms } = await readServerOptions('server', values, ['0', '0', ...words], {});
    assert.equal(terms.relayIdleTimeout, timeout, JSON.stringify(values));
  }
});
