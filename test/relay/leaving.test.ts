/** Servers that a session leaves for another one. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, it, type TestContext } from 'node:test';
import { createReporter } from '../../lib/program/reporter.ts';
import { startRelayed } from '../../lib/smtpd/relay/relayed.ts';
import { parseRouteTable } from '../../lib/smtpd/relay/route-table.ts';
import { createTlsClient } from '../../lib/tls/client.ts';
import { childrenOf } from '../support/processes.ts';
import { startRelay } from '../support/relay.ts';

const folder = mkdtempSync(join(tmpdir(), 'leaving-'));
after(() => rmSync(folder, { recursive: true }));

interface Server {
  readonly port: number;
  /** The next connection. */
  connection(): Promise<Socket>;
}

/** A server that does not close a connection before the client does it in both directions. */
async function startServer(t: TestContext): Promise<Server> {
  const sockets: Socket[] = [];
  const listener = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    sockets.push(socket);
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    listener.close();
  });
  return {
    port: (listener.address() as AddressInfo).port,
    connection: async () => (await once(listener, 'connection'))[0],
  };
}

/** Replies to each line, up to the one that begins with `last`, after which nothing is read. */
function converse(socket: Socket, last: string, lastReply: string): Promise<void> {
  let input = '';
  socket.write('220 far\r\n');
  return new Promise((resolve) => {
    const read = (bytes: Buffer): void => {
      input += bytes.toString('latin1');
      for (let end = input.indexOf('\r\n'); end >= 0; end = input.indexOf('\r\n')) {
        const line = input.slice(0, end);
        input = input.slice(end + 2);
        if (line.startsWith(last)) {
          socket.off('data', read);
          socket.pause();
          socket.write(lastReply);
          return resolve();
        }
        socket.write(line.startsWith('EHLO') ? '250-far\r\n250 PIPELINING\r\n' : '250 ok\r\n');
      }
    };
    socket.on('data', read);
  });
}

describe('a server that is left', { concurrency: true, timeout: 30_000 }, () => {
  it('gets nothing that is for the next one, though it takes the end of its message late', async (t) => {
    const [a, b] = [await startServer(t), await startServer(t)];
    const routes = `@a.example smtp://127.0.0.1:${a.port}\n@b.example smtp://127.0.0.1:${b.port}\n`;
    const table = parseRouteTable(routes, 'routes', []);
    const credentials = { pairs: [], authorities: [] };
    const smtpd = startRelayed({
      to: { table: () => table, offers: [] },
      tls: createTlsClient({ credentials, pins: [], timeout: 10_000 }),
      ssh: { program: 'ssh', words: [], environment: {} },
      credentials: new Map(),
      ...{ header: undefined, resolver: undefined, environment: {} },
      ...{ localName: 'relay.example', greetingName: 'relay.example', errorLimit: 10 },
      ...{ connectTimeout: 10_000, replyTimeout: 60_000, idleTimeout: 60_000 },
      notice: () => {},
      report: createReporter('test', 0),
    });
    t.after(() => smtpd.kill('SIGKILL'));
    let output = '';
    let received: () => void = () => {};
    smtpd.source.listen({
      bytes: (bytes) => {
        output += Buffer.from(bytes).toString('latin1');
        received();
      },
      ended() {},
    });
    smtpd.source.read();
    const until = (text: string): Promise<void> =>
      new Promise((resolve) => {
        received = () => {
          if (output.includes(text)) resolve();
        };
        received();
      });
    // The early reply of A, and no reading.
    const atA = a.connection();
    smtpd.sink.write(Buffer.from('MAIL FROM:<me@a.example>\r\nRCPT TO:<x@y>\r\nDATA\r\n'));
    const left = await atA;
    await converse(left, 'DATA', '354 go\r\n250 queued early\r\n');
    await until('queued early');
    // More than the kernel takes.
    const large = Buffer.alloc(32 << 20, 'a');
    const atB = b.connection();
    const more = 'MAIL FROM:<me@b.example>\r\nRCPT TO:<x@y>\r\n';
    smtpd.sink.write(Buffer.concat([large, Buffer.from(`\r\n.\r\n${more}`)]));
    const next = await atB;
    await converse(next, 'RCPT', '250 ok\r\n');
    await until('early\r\n250 ok\r\n250 ok\r\n');
    smtpd.sink.write(
      Buffer.concat([Buffer.from(`BDAT ${large.length}\r\n`), large, Buffer.from('BDAT 4 LAST\r\nlast')]),
    );
    // A reads all that it gets, while B does not read.
    left.resume();
    left.end();
    await once(left, 'close');
    let end = '';
    next.on('data', (bytes: Buffer) => {
      end = (end + bytes.toString('latin1')).slice(-17);
      // The reply to the first chunk does not matter.
      if (!end.endsWith('last')) return;
      next.end('250 chunk\r\n250 stored\r\n');
    });
    next.resume();
    await until('stored');
    assert.equal(end, 'BDAT 4 LAST\r\nlast');
  });

  it('is one of a few, however fast the client leads its mail elsewhere', async (t) => {
    const program = join(folder, 'stays');
    const replies = 'case $line in (EHLO*) echo 250 far;; (QUIT*) ;; (*) echo 250 ok;; esac';
    writeFileSync(
      program,
      `#!/bin/sh\necho 220 far\nwhile read -r line; do ${replies}; done\nexec sleep 8 2>/dev/null\n`,
      { mode: 0o755 },
    );
    const path = join(folder, 'routes');
    writeFileSync(path, `@a.example |${program} a\n@b.example |${program} b\n`);
    const relay = startRelay(t, ['--routes', path]);
    await relay.reply();
    let most = 0;
    for (let count = 0; count < 10; count++) {
      assert.match(await relay.ask(`MAIL FROM:<me@${count % 2 === 0 ? 'a' : 'b'}.example>`), /^250/);
      await relay.ask('RSET');
      most = Math.max(most, childrenOf(relay.child.pid ?? 0).length);
    }
    assert.equal(most, 4);
  });
});
