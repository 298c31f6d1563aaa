/** The server behind proxies that announce the client (--proxy-protocol). */

import assert from 'node:assert/strict';
import { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import { unreadOctets } from '../support/kernel.ts';
import { childrenOf, until } from '../support/processes.ts';
import { fixture } from '../support/programs.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { connectTo, type SmtpClient } from '../support/smtp-client.ts';
import { collect, startTls } from '../support/tls-client.ts';

/** An smtpd that names the client in its greeting. */
const NAMING = ['sh', '-c', 'printf "220 %s %s\\r\\n" "$TCPREMOTEIP" "$TCPREMOTEPORT"; cat >/dev/null'];

const V1 = Buffer.from('PROXY TCP4 192.0.2.1 192.0.2.25 4000 25\r\n');
const V1_TCP6 = Buffer.from('PROXY TCP6 2001:db8::1 2001:db8::25 4000 25\r\n');
const V1_UNKNOWN = Buffer.from('PROXY UNKNOWN\r\n');
const V2 = v2(0x21, 0x11, 'c0000201 c0000219 0fa0 0019');
const V2_TCP6 = v2(0x21, 0x21, '20010db8000000000000000000000001 20010db8000000000000000000000025 0fa0 0019');
/** With the server name that the client requested in TLS, and a custom type (0xe0). */
const V2_TLVS = v2(0x21, 0x11, 'c0000201 c0000219 0fa0 0019 02 0003 612e62 e0 0000');
/** The start of a health check. */
const V2_LOCAL = v2(0x20, 0x00, '');
const V2_UNSPEC = v2(0x21, 0x00, '');

function v2(command: number, family: number, rest: string): Buffer {
  const body = Buffer.from(rest.replaceAll(' ', ''), 'hex');
  const start = Buffer.from([command, family, body.length >> 8, body.length & 0xff]);
  return Buffer.concat([Buffer.from('\r\n\r\n\0\r\nQUIT\n', 'latin1'), start, body]);
}

function v1From(ip: string): string {
  return `PROXY TCP${ip.includes(':') ? 6 : 4} ${ip} ${ip} 4000 25\r\n`;
}

async function listen(
  t: TestContext,
  options: readonly string[] = [],
  smtpd: readonly string[] = NAMING,
): Promise<RunningServer> {
  const trusted = options.includes('--proxy-protocol') ? [] : ['--proxy-protocol', '10.0.0.0/8,127.0.0.1'];
  const server = await startServer([...trusted, ...options], smtpd);
  t.after(server.close);
  return server;
}

function socketOf(client: SmtpClient): Socket {
  const socket = client.socket();
  assert.ok(socket instanceof Socket);
  return socket;
}

/** Waits until all that a client has sent was read. */
async function read({ port }: { port: number }, client: SmtpClient, octets: number): Promise<void> {
  const socket = socketOf(client);
  await until('it was read', () => {
    const written = socket.bytesWritten >= octets && socket.writableLength === 0;
    return written && unreadOctets(port, socket.localPort ?? 0) === 0;
  });
}

/** The log lines about refusals. */
function refusals(server: RunningServer): string[] {
  return server
    .stderr()
    .split('\n')
    .filter((line) => line.includes('event=refused'));
}

describe('a PROXY header of a trusted proxy', { concurrency: 3, timeout: 60_000 }, () => {
  for (const [what, header, ip] of [
    ['version 1', V1, '192.0.2.1'],
    ['version 1 with IPv6', V1_TCP6, '2001:db8::1'],
    ['version 2', V2, '192.0.2.1'],
    ['version 2 with IPv6', V2_TCP6, '2001:db8::1'],
    ['version 2 with TLVs', V2_TLVS, '192.0.2.1'],
  ] as const) {
    it(`names the client, in ${what}`, async (t) => {
      const server = await listen(t, ['-v3']);
      const client = await connectTo(t, server);
      client.send(header);
      assert.equal(await client.reply(), `220 ${ip} 4000`);
      client.end();
      const remote = ip.includes(':') ? `"\\[${ip}\\]:4000"` : `${ip}:4000`;
      await server.logs(new RegExp(`event=end id=\\S+ remote=${remote} proxy=127\\.0\\.0\\.1 `));
    });

    // The others are read in the same way.
    if (header !== V1 && header !== V2_TLVS) continue;
    it(`may arrive in pieces, split anywhere, in ${what}`, async (t) => {
      const server = await listen(t);
      const cuts = [...header.keys()].slice(1);
      // Ten at a time.
      for (let at = 0; at < cuts.length; at += 10) {
        await Promise.all(
          cuts.slice(at, at + 10).map(async (cut) => {
            const client = await connectTo(t, server);
            client.send(header.subarray(0, cut));
            await read(server, client, cut);
            client.send(header.subarray(cut));
            assert.equal(await client.reply(), `220 ${ip} 4000`, `cut at ${cut}`);
            client.end();
          }),
        );
      }
      assert.equal(server.stderr(), '');
    });
  }

  for (const [what, header] of [
    ['UNKNOWN', V1_UNKNOWN],
    ['LOCAL', V2_LOCAL],
    ['UNSPEC', V2_UNSPEC],
  ] as const) {
    it(`leaves the address of the connection unchanged with ${what}`, async (t) => {
      const server = await listen(t);
      const client = await connectTo(t, server);
      client.send(header);
      assert.equal(await client.reply(), `220 127.0.0.1 ${socketOf(client).localPort}`);
    });
  }

  it('is not passed to smtpd', async (t) => {
    const server = await listen(t, [], ['sh', '-c', 'printf "220 sh\\r\\n250 "; head -n1']);
    const client = await connectTo(t, server);
    client.send(V2);
    await client.reply();
    assert.equal(await client.ask('NOOP'), '250 NOOP');
  });

  for (const options of [[], ['--implicit-tls'], ['--implicit-tls', '-k1']]) {
    const how = options.length === 0 ? 'cleartext' : options.join(' ');
    it(`may belong to a health check, which is not logged, with ${how}`, async (t) => {
      const server = await listen(t, options);
      for (const header of [V1_UNKNOWN, V2_LOCAL]) {
        const client = await connectTo(t, server);
        client.send(header);
        await read(server, client, header.length);
        // Sends nothing more, and resets at once.
        socketOf(client).resetAndDestroy();
      }
      server.signal('SIGTERM');
      assert.equal((await server.ended).code, 0);
      assert.equal(server.stderr(), '');
    });
  }

  it('may be followed by commands in the same packet', async (t) => {
    const server = await listen(t, [], fixture('smtpd-script'));
    const client = await connectTo(t, server);
    client.send(Buffer.concat([V2, Buffer.from('EHLO client\r\nSTARTTLS\r\n')]));
    assert.match(await client.reply(), /^220 smtpd/);
    assert.equal(await client.reply(), '250-smtpd-script\n250-8BITMIME\n250 STARTTLS');
    assert.match(await client.reply(), /^220 2\.0\.0 /);
    await client.shakeHands();
    assert.match(await client.ask('NOOP'), /^250 /);
  });

  it('does not carry cleartext commands into TLS', async (t) => {
    const server = await listen(t, [], fixture('smtpd-script'));
    const client = await connectTo(t, server);
    client.send(Buffer.concat([V2, Buffer.from('STARTTLS\r\nRSET\r\n')]));
    await client.reply();
    assert.match(await client.reply(), /^503 5\.5\.1 /);
  });

  for (const options of [['-k0'], ['-k1'], ['-k0', '--workers', '2']]) {
    // All of it in one packet, and only the first part.
    for (const octets of [1000, 3, 60]) {
      const how = `with ${options.join(' ')}, up to ${octets} octets of it`;
      it(`may be followed by a ClientHello in the same packet, ${how}`, async (t) => {
        const server = await listen(t, ['--implicit-tls', ...options]);
        for (const [header, ip] of [
          [V1, '192.0.2.1'],
          [V2_TCP6, '2001:db8::1'],
        ] as const) {
          const client = await connectTo(t, server);
          const wire = behind(header, octets, client, server);
          const tls = await startTls(wire, { servername: 'localhost' });
          assert.match(await collect(tls).octets(4), new RegExp(`^220 ${ip} 4000`));
          tls.destroy();
        }
      });
    }
  }

  it('may be long', async (t) => {
    const server = await listen(t);
    const client = await connectTo(t, server);
    const filler = '00'.repeat(4096 - 16 - 12 - 3);
    client.send(
      v2(
        0x21,
        0x11,
        `c0000201 c0000219 0fa0 0019 04 ${(filler.length / 2).toString(16).padStart(4, '0')} ${filler}`,
      ),
    );
    assert.equal(await client.reply(), '220 192.0.2.1 4000');
  });
});

describe('a connection without a valid PROXY header', { concurrency: 3, timeout: 60_000 }, () => {
  it('is closed when it is not from a trusted proxy, with one line in the log', async (t) => {
    const server = await listen(t, ['--proxy-protocol', '192.0.2.0/24,::1']);
    for (const header of [V1, V2]) {
      const client = await connectTo(t, server);
      client.send(header);
      assert.equal(await client.rest().catch(() => ''), '');
    }
    await server.logs(/event=refused[\s\S]*event=refused/);
    for (const line of refusals(server)) {
      assert.match(line, /: warning: event=refused id=\S+ remote=127\.0\.0\.1:\d+ why=untrusted$/);
    }
    assert.equal(refusals(server).length, 2);
    assert.deepEqual(childrenOf(server.pid), []);
  });

  for (const [what, sent] of [
    ['nothing of the kind', 'EHLO client\r\n'],
    ['a ClientHello', Buffer.from('160301', 'hex')],
    ['a port that is none', 'PROXY TCP4 192.0.2.1 192.0.2.25 70000 25\r\n'],
    ['an address of another family', 'PROXY TCP6 192.0.2.1 192.0.2.25 4000 25\r\n'],
    ['no end', `PROXY UNKNOWN ${'x'.repeat(200)}`],
    ['LF alone', 'PROXY UNKNOWN\n'],
    ['another version', v2(0x31, 0x11, 'c0000201 c0000219 0fa0 0019')],
    ['another command', v2(0x22, 0x11, 'c0000201 c0000219 0fa0 0019')],
    ['too few octets', v2(0x21, 0x11, 'c0000201')],
    ['a TLV that leads out of it', v2(0x21, 0x11, 'c0000201 c0000219 0fa0 0019 02 00ff 61')],
    ['a wrong checksum', v2(0x21, 0x11, 'c0000201 c0000219 0fa0 0019 03 0004 00000000')],
    ['too many octets', Buffer.from('0d0a0d0a000d0a515549540a2111ffff', 'hex')],
  ] as const) {
    it(`is closed without a reply when there is ${what}`, async (t) => {
      const server = await listen(t);
      const client = await connectTo(t, server);
      client.send(sent);
      assert.equal(await client.rest().catch(() => ''), '');
      await server.logs(
        /: warning: event=refused id=\S+ remote=127\.0\.0\.1:\d+ why=proxy-header text="[^\n]+"\n/,
      );
      assert.equal(refusals(server).length, 1);
      assert.deepEqual(childrenOf(server.pid), []);
      await assertServes(t, server);
    });
  }

  it('is closed when it ends within the header', async (t) => {
    const server = await listen(t);
    for (const end of ['end', 'destroy'] as const) {
      const client = await connectTo(t, server);
      client.send(V2.subarray(0, 20));
      await read(server, client, 20);
      client[end]();
      await client.rest().catch(() => '');
    }
    await server.logs(/event=refused[\s\S]*event=refused/);
    for (const line of refusals(server)) assert.match(line, /why=proxy-header/);
    await assertServes(t, server);
  });

  it('is closed when the header does not arrive in time', async (t) => {
    const server = await listen(t);
    const client = await connectTo(t, server);
    client.send('PROXY TCP4 ');
    assert.equal(await client.rest().catch(() => ''), '');
    await server.logs(/why=proxy-header text="timed out"/);
    await assertServes(t, server);
  });

  it('is closed when the server stops', async (t) => {
    const server = await listen(t, ['--grace', '0']);
    const client = await connectTo(t, server);
    client.send('PROXY ');
    await read(server, client, 6);
    server.signal('SIGTERM');
    assert.equal(await client.rest().catch(() => ''), '');
    assert.equal((await server.ended).code, 0);
  });
});

describe('clients behind a proxy', { concurrency: 3, timeout: 60_000 }, () => {
  for (const workers of ['1', '2']) {
    it(`are counted by their own addresses, over ${workers} worker(s)`, async (t) => {
      const server = await listen(t, ['-C', '1', '--workers', workers]);
      const greeted: SmtpClient[] = [];
      for (const ip of ['192.0.2.1', '192.0.2.2', '2001:db8::1', '2001:db8:0:1::1']) {
        const client = await connectTo(t, server);
        client.send(v1From(ip));
        assert.equal(await client.reply(), `220 ${ip} 4000`);
        greeted.push(client);
      }
      for (const ip of ['192.0.2.1', '::ffff:192.0.2.2', '2001:db8::2']) {
        const client = await connectTo(t, server);
        // A client that sends early must get its reply, too, not a reset.
        client.send(`${v1From(ip)}EHLO client\r\n`);
        assert.match(await client.reply(), /^421 4\.7\.0 /, ip);
        assert.equal(await client.rest(), '');
        client.end();
      }
      await server.logs(/remote=192\.0\.2\.1:4000 proxy=127\.0\.0\.1 why=per-address/);
      for (const client of greeted) client.destroy();
      const again = 'it is let in again when the first has gone';
      for (let served = false; !served; ) {
        const client = await connectTo(t, server);
        client.send(v1From('192.0.2.1'));
        const reply = await client.reply();
        served = reply.startsWith('220 ');
        assert.match(reply, /^(?:220|421) /, again);
        client.destroy();
      }
    });
  }

  it('wait for a slot before their headers are read', async (t) => {
    const server = await listen(t, ['-c', '1']);
    const [first, second] = [await connectTo(t, server), await connectTo(t, server)];
    for (const client of [first, second]) client.send(V2);
    assert.equal(await first.reply(), '220 192.0.2.1 4000');
    const { bytesRead } = socketOf(second);
    assert.equal(bytesRead, 0);
    first.destroy();
    assert.equal(await second.reply(), '220 192.0.2.1 4000');
  });

  it('do not share the limit with the proxy itself', async (t) => {
    const server = await listen(t, ['-C', '1']);
    const check = await connectTo(t, server);
    check.send(V2_LOCAL);
    await check.reply();
    const client = await connectTo(t, server);
    client.send(V2);
    assert.match(await client.reply(), /^220 /);
  });
});

/**
 * A connection that sends a header and the first octets of what is written in one packet; the rest follows
 * when that was read.
 */
function behind(header: Uint8Array, octets: number, client: SmtpClient, server: RunningServer): Duplex {
  const socket = socketOf(client);
  let isFirst = true;
  socket.removeAllListeners('data');
  const wire = new Duplex({
    autoDestroy: false,
    read: () => void socket.resume(),
    write: (bytes: Buffer, _encoding, done) => {
      if (!isFirst) return void socket.write(bytes, () => done());
      isFirst = false;
      const piece = Buffer.concat([header, bytes.subarray(0, octets)]);
      socket.write(piece);
      read(server, client, piece.length).then(() => socket.write(bytes.subarray(octets), () => done()), done);
    },
  });
  socket.on('data', (bytes) => wire.push(bytes));
  socket.on('end', () => wire.push(null));
  return wire;
}

async function assertServes(t: TestContext, server: RunningServer): Promise<void> {
  const client = await connectTo(t, server);
  client.send(V1);
  assert.equal(await client.reply(), '220 192.0.2.1 4000');
}
