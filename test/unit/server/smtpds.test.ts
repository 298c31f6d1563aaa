/** When the introduction is learned: lib/server/smtpds.ts. */

import assert from 'node:assert/strict';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { createLimiter } from '../../../lib/server/connection/limiter.ts';
import { createLog } from '../../../lib/server/log.ts';
import { createMetrics } from '../../../lib/server/metrics/metrics.ts';
import { createSmtpds, type Smtpds } from '../../../lib/server/smtpds.ts';
import { type Clock, stopClock } from '../../support/clock.ts';

const SMTPD = `#!/bin/sh
printf '220 ready\\r\\n'
while read -r verb name; do printf '250 ok\\r\\n'; done
`;
const BROKEN = '#!/bin/sh\nexit 3\n';
const ENDS = { remote: { ip: '192.0.2.1', port: 4711 }, local: { ip: '192.0.2.2', port: 25 } };

interface Running {
  readonly clock: Clock;
  readonly smtpds: Smtpds;
  /** Replaces the smtpd. */
  install(script: string): void;
  /** Settles when the log has this many lines; the last one has this text. */
  logs(count: number, text: string): Promise<void>;
  /** Whether the smtpd of a connection is started at once. */
  startsAtOnce(): Promise<boolean>;
}

function start(t: TestContext): Running {
  const clock = stopClock(t);
  const folder = mkdtempSync(join(tmpdir(), 'smtpds-'));
  const smtpd = join(folder, 'smtpd');
  const lines: string[] = [];
  const log = createLog('server', 2, (line) => lines.push(line) > 0);
  const smtpds = createSmtpds(
    {
      smtpd: [smtpd],
      localHost: undefined,
      envelope: { received: undefined, strictNewlines: false },
      srs: undefined,
      onDemand: true,
      maxSmtpds: undefined,
      handshake: { clientCertificate: 'none', timeout: 30_000, alpn: undefined },
      terms: {
        requireTls: false,
        plaintextAuth: false,
        errorLimit: 100,
        fresh: true,
        idleTimeout: 300_000,
        greetDelay: 0,
        relayIdleTimeout: undefined,
      },
    },
    {
      environment: process.env,
      smtpdLimiter: createLimiter({ connections: 1, perAddress: 1, waiting: 0 }),
      metrics: createMetrics(),
      log,
    },
  );
  t.after(() => {
    smtpds.close();
    rmSync(folder, { recursive: true });
  });
  return {
    clock,
    smtpds,
    install: (script) => {
      writeFileSync(smtpd, script);
      chmodSync(smtpd, 0o755);
    },
    logs: async (count, text) => {
      while (lines.length < count) await setImmediate();
      assert.equal(lines.length, count);
      assert.match(lines.at(-1) ?? '', new RegExp(`event=introduction text="?${text}`));
    },
    startsAtOnce: async () => {
      let isStarted = false;
      const one = smtpds.startFor(ENDS, 'id', {
        started: () => {
          isStarted = true;
        },
        notice() {},
        relay: log.reporter('relay'),
        envelope: log.reporter('envelope'),
      })({});
      await setImmediate();
      one.kill('SIGKILL');
      await one.ended;
      return isStarted;
    },
  };
}

describe('the introduction', { timeout: 60_000 }, () => {
  it('is learned every hour, and smtpds are started at once when that fails', async (t) => {
    const { clock, smtpds, install, logs, startsAtOnce } = start(t);
    install(SMTPD);
    await smtpds.learn();
    await logs(1, 'ready');
    assert.equal(await startsAtOnce(), false);
    await clock.pass(3_599_000);
    await logs(1, 'ready');
    install(BROKEN);
    await clock.pass(1_000);
    await logs(2, 'unable to learn .*: exit status 3');
    assert.equal(await startsAtOnce(), true);
  });

  it('is learned again every minute until that succeeds', async (t) => {
    const { clock, smtpds, install, logs, startsAtOnce } = start(t);
    install(BROKEN);
    await smtpds.learn();
    await logs(1, 'unable to learn');
    await clock.pass(60_000);
    await logs(2, 'unable to learn');
    install(SMTPD);
    await clock.pass(60_000);
    await logs(3, 'ready');
    assert.equal(await startsAtOnce(), false);
  });

  it('of an smtpd that sends nothing is given up at the end', async (t) => {
    const { clock, smtpds, install } = start(t);
    install('#!/bin/sh\nexec cat\n');
    const learned = smtpds.learn();
    smtpds.close();
    await learned;
    assert.equal(clock.pending(), 0);
  });

  it('is not learned again after the end', async (t) => {
    const { clock, smtpds, install, logs } = start(t);
    install(SMTPD);
    await smtpds.learn();
    smtpds.close();
    assert.equal(clock.pending(), 0);
    await clock.pass(3_600_000);
    await logs(1, 'ready');
  });
});
