/** How the primary binds sockets for workers, with each function that Node may have for it. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import * as net from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { Failure } from '../../../lib/program/failure.ts';
import { bindSocket } from '../../../lib/server/listen/shared-sockets.ts';
import { listenTcp } from '../../support/tcp.ts';

/** Binds a socket; it is closed when the test ends. */
function bind(t: TestContext, ip: string, port: number, node: object): ReturnType<typeof bindSocket> {
  const bound = bindSocket(ip, port, node);
  t.after(bound.close);
  return bound;
}

/** Starts a process that listens on a descriptor of ours, and greets. @returns its port. */
async function listenElsewhere(t: TestContext, descriptor: number): Promise<number> {
  const script = `const server = require('node:net').createServer((socket) => socket.end('hello'));
    server.listen({ fd: 3 }, () => console.log(server.address().port));`;
  const child = spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'inherit', descriptor] });
  t.after(() => child.kill('SIGKILL'));
  const { stdout } = child;
  assert.ok(stdout !== null);
  const [line] = await once(stdout, 'data');
  return Number(line);
}

/** What a server sends to a client, or why it cannot be reached. */
function greetingAt(host: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    const client = net.connect(port, host);
    client.on('data', (bytes: Buffer) => resolve(bytes.toString()));
    client.on('error', (error) => resolve('code' in error ? String(error.code) : error.message));
  });
}

const WAYS = [
  ['what this Node has', net, false],
  [
    'net.BoundSocket',
    { BoundSocket: Reflect.get(net, 'BoundSocket') },
    typeof Reflect.get(net, 'BoundSocket') === 'function' ? false : 'this Node has none',
  ],
  [
    'what node:cluster uses',
    { _createServerHandle: Reflect.get(net, '_createServerHandle') },
    typeof Reflect.get(net, '_createServerHandle') === 'function' ? false : 'this Node has none',
  ],
] as const;

for (const [name, node, skip] of WAYS) {
  describe(`bindSocket with ${name}`, { skip }, () => {
    for (const [ip, host] of [
      ['127.0.0.1', '127.0.0.1'],
      ['::1', '::1'],
      ['::', '127.0.0.1'],
    ] as const) {
      it(`gives a socket on ${ip} that another process listens on, reached at ${host}`, async (t) => {
        const { descriptor } = bind(t, ip, 0, node);
        const port = await listenElsewhere(t, descriptor);
        assert.equal(await greetingAt(host, port), 'hello');
      });
    }

    it('reports a port that is in use', async (t) => {
      const port = await listenTcp(t, () => {});
      assert.throws(() => bindSocket('127.0.0.1', port, node), { code: 'EADDRINUSE' });
    });

    it('reports an address that is not of this machine', () => {
      assert.throws(() => bindSocket('192.0.2.1', 0, node), { code: 'EADDRNOTAVAIL' });
    });
  });
}

describe('bindSocket', () => {
  it('throws where Node has neither function', () => {
    assert.throws(
      () => bindSocket('127.0.0.1', 0, {}),
      (error) => error instanceof Failure && error.status === 111 && error.message.includes(process.version),
    );
  });
});
