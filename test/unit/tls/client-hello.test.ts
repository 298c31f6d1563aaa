/** The server name in a ClientHello: lib/tls/client-hello.ts. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Duplex, PassThrough } from 'node:stream';
import { before, describe, it } from 'node:test';
import { type ConnectionOptions, connect } from 'node:tls';
import { findServerName, peekServerName } from '../../../lib/tls/client-hello.ts';
import { createRandom } from '../../fuzz/random.ts';

/** The ClientHello that Node sends. */
async function helloOf(options: ConnectionOptions): Promise<Buffer> {
  const sent = new PassThrough();
  const wire = Duplex.from({ readable: new PassThrough(), writable: sent });
  const client = connect({ socket: wire, ...options });
  client.on('error', () => {});
  const [hello]: Buffer[] = await once(sent, 'data');
  client.destroy();
  return hello ?? Buffer.alloc(0);
}

/** The same handshake message in records of a given size. */
function inRecordsOf(size: number, hello: Buffer): Buffer {
  const message = hello.subarray(5);
  const records: Buffer[] = [];
  for (let at = 0; at < message.length; at += size) {
    const piece = message.subarray(at, at + size);
    records.push(Buffer.from([22, 3, 1, piece.length >> 8, piece.length & 255]), piece);
  }
  return Buffer.concat(records);
}

describe('findServerName', () => {
  let named: Buffer;
  let nameless: Buffer;
  before(async () => {
    named = await helloOf({ servername: 'mail.example.org', ALPNProtocols: ['smtp'] });
    nameless = await helloOf({});
  });

  for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
    it(`finds the name in a ClientHello of ${maxVersion}`, async () => {
      assert.equal(findServerName(await helloOf({ servername: 'a.example', maxVersion })), 'a.example');
    });
  }

  it('returns an empty name when the client sends none', () => {
    assert.equal(findServerName(nameless), '');
  });

  for (const name of ['a', 'xn--bcher-kva.example', '_25._tcp.example', `${'a'.repeat(251)}.org`]) {
    it(`finds the name ${name.slice(0, 30)}`, () => {
      assert.equal(findServerName(withName(name)), name);
    });
  }

  for (const name of ['a\n', 'a b', '\x00', 'a,b', '*.a', '[::1]', 'b\xfccher', `${'a'.repeat(252)}.org`]) {
    it(`ignores the invalid name ${JSON.stringify(name.slice(0, 30))}`, () => {
      assert.equal(findServerName(withName(name)), '');
    });
  }

  it('waits for the complete message, wherever it is cut', () => {
    for (const hello of [named, nameless, inRecordsOf(7, named)]) {
      for (let length = 0; length < hello.length; length++) {
        assert.equal(findServerName(hello.subarray(0, length)), undefined, `${length} octets`);
      }
    }
  });

  for (const size of [1, 3, 4, 5, 100]) {
    it(`finds the name in records of ${size}`, () => {
      assert.equal(findServerName(inRecordsOf(size, named)), 'mail.example.org');
    });
  }

  it('ignores the bytes after the message', () => {
    assert.equal(findServerName(Buffer.concat([named, Buffer.from('EHLO')])), 'mail.example.org');
  });

  for (const [what, bytes] of [
    ['SMTP', Buffer.from('EHLO client.example\r\n')],
    ['another record', Buffer.from([21, 3, 1, 0, 2, 2, 40])],
    ['another handshake message', Buffer.from([22, 3, 1, 0, 4, 2, 0, 0, 0])],
    ['a ClientHello with nothing in it', Buffer.from([22, 3, 1, 0, 4, 1, 0, 0, 0])],
    ['a ClientHello with a length over the limit', Buffer.concat([hugeRecord(16380), hugeRecord(100)])],
  ] as const) {
    it(`finds no name in ${what}, without waiting for more`, () => {
      assert.equal(findServerName(bytes), '');
    });
  }

  it('never throws on a damaged ClientHello', () => {
    const random = createRandom(1, 0);
    for (let n = 0; n < 20_000; n++) {
      const broken = Buffer.from(named);
      for (let times = 1 + random.below(4); times > 0; times--) {
        broken[5 + random.below(broken.length - 5)] = random.below(256);
      }
      const found = findServerName(broken);
      assert.ok(found === undefined || typeof found === 'string');
    }
  });
});

/** A minimal ClientHello with a server name. */
function withName(name: string): Buffer {
  const host = Buffer.concat([Buffer.from([0]), counted(2, Buffer.from(name, 'latin1'))]);
  const serverName = Buffer.concat([Buffer.from([0, 0]), counted(2, counted(2, host))]);
  const hello = [Buffer.alloc(34, 3), counted(1, ''), counted(2, ''), counted(1, ''), counted(2, serverName)];
  const message = Buffer.concat([Buffer.from([1]), counted(3, Buffer.concat(hello))]);
  return Buffer.concat([Buffer.from([22, 3, 1]), counted(2, message)]);
}

/** Octets preceded by their length, in a field of `size` octets. */
function counted(size: number, octets: Buffer | string): Buffer {
  const count = Buffer.alloc(size);
  count.writeUIntBE(octets.length, 0, size);
  return Buffer.concat([count, Buffer.from(octets)]);
}

/** A record of a ClientHello of 16 MB. */
function hugeRecord(size: number): Buffer {
  const record = Buffer.alloc(5 + size, 1);
  record.set([22, 3, 1, size >> 8, size & 255]);
  record.set([1, 255, 255, 255], 5);
  return record;
}

describe('peekServerName', () => {
  it('puts back all that was read, in order', async () => {
    const hello = await helloOf({ servername: 'a.example' });
    const connection = new PassThrough();
    const name = peekServerName(connection);
    for (const octet of hello) connection.write(Buffer.from([octet]));
    assert.equal(await name, 'a.example');
    connection.end('more');
    const all: Buffer[] = [];
    for await (const bytes of connection) all.push(bytes);
    assert.deepEqual(Buffer.concat(all), Buffer.concat([hello, Buffer.from('more')]));
  });

  it('fails when the connection ends first', async () => {
    const connection = new PassThrough();
    connection.end(Buffer.from([22, 3]));
    await assert.rejects(peekServerName(connection), /ended before the ClientHello/);
  });

  it('fails when the connection fails first, and when it is closed', async () => {
    const broken = new PassThrough();
    const name = peekServerName(broken);
    broken.destroy(new Error('reset'));
    await assert.rejects(name, /reset/);
    const closed = new PassThrough();
    const other = peekServerName(closed);
    closed.destroy();
    await assert.rejects(other, /ended before the ClientHello/);
  });
});
