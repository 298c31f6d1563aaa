/** Messages between the primary and a worker, over real sockets. */

import assert from 'node:assert/strict';
import { connect, type Socket } from 'node:net';
import { describe, it, type TestContext } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { openChannelToPrimary, openChannelToWorker } from '../../../lib/server/processes/channel.ts';
import { listenTcp } from '../../support/tcp.ts';
import { DEADLINE, within } from '../../support/within.ts';

/** Two connected sockets, closed when the test ends. */
async function connected(t: TestContext): Promise<[Socket, Socket]> {
  let accept: (socket: Socket) => void = () => {};
  const accepted = new Promise<Socket>((resolve) => {
    accept = resolve;
  });
  const one = connect(await listenTcp(t, (socket) => accept(socket)), '127.0.0.1');
  t.after(() => one.destroy());
  one.setNoDelay(true);
  return [one, await accepted];
}

/** Opens a channel. @returns what it receives until "last" comes. */
function listen(socket: Socket, open = openChannelToWorker): Promise<unknown[]> {
  const list: unknown[] = [];
  const all = new Promise<unknown[]>((resolve) => {
    open(socket, {
      received: (message) => (message === 'last' ? resolve(list) : list.push(message)),
      closed() {},
    });
  });
  return within(DEADLINE, '"last"', all);
}

const MESSAGES = [{ type: 'text', text: 'größer \u{1F4EC}\n' }, 1, null, 'x'.repeat(500), { deep: [[{}]] }];
const LIMIT = 256 * 1024;

describe('a channel', { concurrency: 2 }, () => {
  for (const size of [1, 7, 1000]) {
    it(`receives messages that come in parts of ${size}`, async (t) => {
      const [writer, reader] = await connected(t);
      const all = listen(reader);
      const text = [...MESSAGES, 'last'].map((message) => `${JSON.stringify(message)}\n`).join('');
      const bytes = Buffer.from(text);
      for (let at = 0; at < bytes.length; at += size) {
        writer.write(bytes.subarray(at, at + size));
        // Waits until the part is read, so that parts arrive one at a time.
        await setImmediate();
      }
      assert.deepEqual(await all, MESSAGES);
    });
  }

  it('receives undefined for a line of a worker that is not JSON or too long, and what follows it', async (t) => {
    const [writer, reader] = await connected(t);
    const all = listen(reader);
    const longest = 'x'.repeat(LIMIT - 2);
    for (const line of [
      'no JSON',
      `"${longest}"`,
      `"${longest}x"`,
      `"${longest.repeat(9)}"`,
      '2',
      '"last"',
    ]) {
      writer.write(`${line}\n`);
    }
    assert.deepEqual(await all, [undefined, longest, undefined, undefined, 2]);
  });

  it('receives what the primary sends, of any length', async (t) => {
    const [one, other] = await connected(t);
    const channel = openChannelToWorker(one, { received() {}, closed() {} });
    const all = listen(other, openChannelToPrimary);
    const long = { text: 'y'.repeat(20 * LIMIT) };
    channel.send(long);
    assert.equal(channel.isClear(), false);
    one.write('"last"\n');
    assert.deepEqual(await all, [long]);
  });

  it('reports that the peer has closed it', async (t) => {
    const [one, other] = await connected(t);
    const closed = new Promise<void>((resolve) => {
      openChannelToWorker(one, { received() {}, closed: resolve });
    });
    other.destroy();
    await within(DEADLINE, 'end of the channel', closed);
  });
});
