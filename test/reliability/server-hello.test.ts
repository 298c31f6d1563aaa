/** Damaged ClientHellos: they neither crash the server nor leave anything behind. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { nullSmtpd } from '../bench/smtpd.ts';
import { recordHello, sendBadHello } from '../fuzz/hello-run.ts';
import { until } from '../support/processes.ts';
import { type ServerSetup, startServer } from '../support/server.ts';
import { certificate } from '../support/shim.ts';
import { inTurns } from './crowd.ts';
import { smtpdsOf } from './vitals.ts';

const COUNT = 500;
const NAME = 'mail.example.org';

const folder = mkdtempSync(join(tmpdir(), 'hello-'));
const smtpd = nullSmtpd(folder).command;
after(() => rmSync(folder, { recursive: true, force: true }));

const { certFile, keyFile } = certificate();
const byName = { environment: { [`CERTFILE:${NAME}`]: certFile, [`KEYFILE:${NAME}`]: keyFile } };
const proxied = 'PROXY TCP4 192.0.2.7 192.0.2.8 4711 25\r\n';

describe('the server survives damaged ClientHellos', { concurrency: 2 }, () => {
  for (const [how, options, before, setup] of [
    ['in a session', [], 'STARTTLS\r\n', {}],
    ['with implicit TLS', ['--implicit-tls'], '', {}],
    ['with certificates by name', ['--implicit-tls', '-k', '2', '--alpn', 'smtp'], '', byName],
    ['behind a proxy', ['--implicit-tls', '-k', '1', '--proxy-protocol', '127.0.0.1'], proxied, byName],
  ] as const) {
    it(how, async (t) => {
      const seed = Date.now() % 1_000_000_000;
      t.diagnostic(`seed ${seed}`);
      const hello = await recordHello(NAME);
      const all: ServerSetup = setup;
      const server = await startServer(['-q', '-K', '1000', '-t', '5', ...options], smtpd, all);
      t.after(() => server.close());
      await inTurns(COUNT, 16, (turn) => sendBadHello(server.port, seed, turn, hello, before));
      await until('all smtpds have ended', () => smtpdsOf(server.pid).length === 0, 20_000);
      assert.equal(server.stderr(), '');
      server.signal('SIGTERM');
      assert.deepEqual(await server.ended, { code: 0, signal: null });
    });
  }
});
