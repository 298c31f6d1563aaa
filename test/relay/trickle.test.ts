/** Sides that always send something, and never all of it. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { startFarServer } from '../support/far-server.ts';
import { startRelay } from '../support/relay.ts';

const folder = mkdtempSync(join(tmpdir(), 'trickle-'));
after(() => rmSync(folder, { recursive: true }));
const TOO_SLOW = '421 4.4.2 Idle timeout, closing connection, please try again';

describe('the idle timeout of a relay', { concurrency: true, timeout: 30_000 }, () => {
  it('is for a whole command', async (t) => {
    const path = join(folder, 'client');
    writeFileSync(path, '* smtp://127.0.0.1:1\n');
    const relay = startRelay(t, ['-t', '1', '--routes', path]);
    await relay.reply();
    const trickle = setInterval(() => relay.child.stdin?.write('N'), 100);
    t.after(() => clearInterval(trickle));
    assert.equal(await relay.reply(), TOO_SLOW);
  });

  it('is for a whole reply', async (t) => {
    const server = await startFarServer(t, { replies: { DATA: '354-first' } });
    const path = join(folder, 'server');
    writeFileSync(path, `* smtp://127.0.0.1:${server.port}\n`);
    const relay = startRelay(t, ['-t', '3', '--routes', path]);
    await relay.reply();
    for (const command of ['MAIL FROM:<a@b.example>', 'RCPT TO:<c@d.example>']) await relay.ask(command);
    const trickle = setInterval(() => server.connections[0]?.socket.write('354-more\r\n'), 100);
    t.after(() => clearInterval(trickle));
    relay.send('DATA');
    relay.end();
    assert.match(await relay.rest(), /^354-first\r\n(?:354-more\r\n)*421 4\.4\.2 Idle timeout, [^\n]*\r\n$/);
  });
});
