/** Limits on concurrent connections, in total and per address: which wait and which are refused. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it, type TestContext } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { addressGroup } from '../../lib/net/address.ts';
import {
  type Admission,
  type ConnectionLimits,
  createLimiter,
  type LocalLimiter,
  type Slot,
} from '../../lib/server/connection/limiter.ts';
import type { FromWorker, ToWorker } from '../../lib/server/processes/messages.ts';
import { createRemoteLimiters, openWorkerSlots } from '../../lib/server/processes/remote-limiter.ts';
import { createRandom } from '../fuzz/random.ts';
import { until } from '../support/processes.ts';
import { type RunningServer, startServer } from '../support/server.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';

const NO_LIMIT = Number.POSITIVE_INFINITY;

/** The decision about a slot so far. */
async function outcome({ admission }: Slot): Promise<Admission | 'waiting'> {
  return Promise.race([admission, settled().then(() => 'waiting' as const)]);
}

/** Settles after the callbacks of all promises that have settled by now. */
function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

setFlagsFromString('--expose-gc');
const collect: () => void = runInNewContext('gc');

/** What the heap holds, in octets. */
async function heapUsed(): Promise<number> {
  // node:test tracks each promise until it is collected, and one turn longer.
  for (let times = 0; times < 3; times++) {
    collect();
    await settled();
  }
  return process.memoryUsage().heapUsed;
}

describe('a limiter', () => {
  it('admits up to the limit, queues further connections in order, and refuses the rest', async () => {
    const limiter = createLimiter({ connections: 2, perAddress: NO_LIMIT, waiting: 2 });
    const slots = ['a', 'b', 'c', 'd', 'e'].map((address) => limiter.slot(address));
    assert.deepEqual(await Promise.all(slots.map(outcome)), [
      'admitted',
      'admitted',
      'waiting',
      'waiting',
      'no-room',
    ]);
    assert.deepEqual([limiter.active(), limiter.waiting()], [2, 2]);
    slots[1]?.release();
    assert.deepEqual(await Promise.all(slots.slice(2, 4).map(outcome)), ['admitted', 'waiting']);
    slots[0]?.release();
    assert.deepEqual(await Promise.all(slots.slice(2, 4).map(outcome)), ['admitted', 'admitted']);
    assert.deepEqual([limiter.active(), limiter.waiting()], [2, 0]);
  });

  it('admits nothing in place of a queued slot that is released', async () => {
    const limiter = createLimiter({ connections: 1, perAddress: NO_LIMIT, waiting: 2 });
    const [first, second, third] = ['a', 'b', 'c'].map((address) => limiter.slot(address));
    second?.release();
    assert.deepEqual([limiter.active(), limiter.waiting()], [1, 1]);
    first?.release();
    assert.ok(second !== undefined && third !== undefined);
    assert.deepEqual([await outcome(second), await outcome(third)], ['waiting', 'admitted']);
  });

  it('counts waiting connections for their address, too', async () => {
    const limiter = createLimiter({ connections: 1, perAddress: 2, waiting: 9 });
    const slots = ['a', 'a', 'a', 'b'].map((address) => limiter.slot(address));
    assert.deepEqual(await Promise.all(slots.map(outcome)), [
      'admitted',
      'waiting',
      'per-address',
      'waiting',
    ]);
    slots[1]?.release();
    assert.equal(await outcome(limiter.slot('a')), 'waiting');
  });

  it('accepts an address that is claimed later', async () => {
    const limiter = createLimiter({ connections: 9, perAddress: 1, waiting: 0 });
    const [first, second] = [limiter.slot(undefined), limiter.slot(undefined)];
    assert.deepEqual([await first.claim('a'), await second.claim('a')], [true, false]);
    second.release();
    assert.equal(await outcome(limiter.slot('a')), 'per-address');
    first.release();
    assert.equal(await outcome(limiter.slot('a')), 'admitted');
    assert.equal(await first.claim('b'), false, 'a released slot cannot claim');
    assert.equal(await outcome(limiter.slot('b')), 'admitted');
  });

  it('keeps no memory of released addresses', async () => {
    const limiter = createLimiter({ connections: 1, perAddress: 1, waiting: 0 });
    const before = await heapUsed();
    for (let index = 0; index < 200_000; index++) {
      const slot = limiter.slot(index % 2 === 0 ? `address ${index}` : undefined);
      void slot.claim(`later ${index}`);
      slot.release();
    }
    const grown = (await heapUsed()) - before;
    assert.ok(grown < 5_000_000, `${grown} octets more`);
    assert.equal(limiter.active(), 0);
  });

  it('counts the address that was claimed last', async () => {
    const limiter = createLimiter({ connections: 9, perAddress: 1, waiting: 0 });
    const first = limiter.slot(undefined);
    for (const address of ['a', 'b', 'c']) assert.equal(await first.claim(address), true);
    assert.equal(await outcome(limiter.slot('a')), 'admitted');
    assert.equal(await outcome(limiter.slot('c')), 'per-address');
    first.release();
    assert.equal(await outcome(limiter.slot('c')), 'admitted');
  });

  it('ignores a second release, and the release of a refused slot', async () => {
    const limiter = createLimiter({ connections: 1, perAddress: 1, waiting: 0 });
    const [first, second] = [limiter.slot('a'), limiter.slot('a')];
    for (const slot of [second, second, first, first, second]) slot.release();
    assert.deepEqual([limiter.active(), limiter.waiting()], [0, 0]);
    assert.equal(await outcome(limiter.slot('a')), 'admitted');
    assert.equal(await outcome(limiter.slot('b')), 'no-room');
  });

  it('with limits of zero refuses every connection', async () => {
    const limiter = createLimiter({ connections: 0, perAddress: NO_LIMIT, waiting: 0 });
    assert.equal(await outcome(limiter.slot('a')), 'no-room');
  });
});

describe('addresses that count as one', () => {
  const limiter = (): LocalLimiter => createLimiter({ connections: 9, perAddress: 1, waiting: 0 });
  for (const [first, second, areOne] of [
    ['192.0.2.1', '192.0.2.2', false],
    ['192.0.2.1', '::ffff:192.0.2.1', true],
    ['192.0.2.1', '::ffff:c000:201', true],
    ['2001:db8:1:2::1', '2001:db8:1:2:ffff:ffff:ffff:ffff', true],
    ['2001:db8:1:2::1', '2001:db8:1:3::1', false],
    ['2001:db8:1:2::1', '2001:0DB8:0001:0002::9', true],
    ['fe80::1%lo', 'fe80::2%eth0', true],
    ['::1', '::ffff:0.0.0.1', false],
  ] as const) {
    it(`${first} and ${second} ${areOne ? 'do' : 'do not'}`, async () => {
      const one = limiter();
      assert.equal(await outcome(one.slot(addressGroup(first))), 'admitted');
      assert.equal(await outcome(one.slot(addressGroup(second))), areOne ? 'per-address' : 'admitted');
    });
  }
});

/** A slot as a simple model sees it. */
interface Entry {
  readonly slot: Slot;
  address: string | undefined;
  state: 'admitted' | 'waiting' | 'released';
  /** The expected decision; undefined for a slot that was released while waiting. */
  expected: Admission | undefined;
  received: Admission | undefined;
}

/** The rules of the limiter, with everything recounted each time. */
function createModel(limits: ConnectionLimits) {
  const entries: Entry[] = [];
  const count = (state: Entry['state']): number => entries.filter((entry) => entry.state === state).length;
  const isFull = (address: string): boolean => {
    const there = entries.filter((entry) => entry.state !== 'released' && entry.address === address);
    return there.length >= limits.perAddress;
  };
  return {
    entries,
    count,
    come: (slot: Slot, address: string | undefined): void => {
      const entry: Entry = { slot, address, state: 'released', expected: undefined, received: undefined };
      if (address !== undefined && isFull(address)) entry.expected = 'per-address';
      else if (count('admitted') < limits.connections)
        Object.assign(entry, { state: 'admitted', expected: 'admitted' });
      else if (count('waiting') < limits.waiting) entry.state = 'waiting';
      else entry.expected = 'no-room';
      entries.push(entry);
      void slot.admission.then((admission) => {
        entry.received = admission;
      });
    },
    release: (entry: Entry): void => {
      entry.state = 'released';
      const next = entries.find((one) => one.state === 'waiting');
      if (next === undefined || count('admitted') === limits.connections) return;
      Object.assign(next, { state: 'admitted', expected: 'admitted' });
    },
    /** Returns whether the claim is to be granted. */
    claim: (entry: Entry, address: string): boolean => {
      if (entry.state === 'released' || isFull(address)) return false;
      entry.address = address;
      return true;
    },
  };
}

describe('a limiter and a model of it', () => {
  for (let seed = 1; seed <= 40; seed++) {
    it(`agree after any sequence of calls (seed ${seed})`, async () => {
      const random = createRandom(seed, 0);
      const limits = {
        connections: 1 + random.below(4),
        perAddress: seed % 4 === 0 ? NO_LIMIT : 1 + random.below(3),
        waiting: random.below(4),
      };
      const model = createModel(limits);
      const limiter = createLimiter(limits);
      for (let step = 0; step < 300; step++) {
        const entry = model.entries[random.below(model.entries.length + 1)];
        const address = `192.0.2.${random.below(4)}`;
        if (entry === undefined || random.below(5) < 2) {
          const known = random.below(3) > 0 ? address : undefined;
          model.come(limiter.slot(known), known);
        } else if (entry.address === undefined && random.below(2) === 0) {
          assert.equal(await entry.slot.claim(address), model.claim(entry, address));
        } else {
          entry.slot.release();
          model.release(entry);
        }
        assert.deepEqual(
          [limiter.active(), limiter.waiting()],
          [model.count('admitted'), model.count('waiting')],
        );
        assert.ok(limiter.active() <= limits.connections);
        assert.ok(limiter.waiting() === 0 || limiter.active() === limits.connections);
      }
      await settled();
      for (const { received, expected } of model.entries) assert.equal(received, expected);
      for (const { slot } of model.entries) slot.release();
      assert.deepEqual([limiter.active(), limiter.waiting()], [0, 0]);
      const again = [0, 1, 2, 3].map((last) => limiter.slot(`192.0.2.${last}`));
      for (const one of again) {
        assert.notEqual(await outcome(one), 'per-address');
        one.release();
      }
    });
  }
});

const NO_SLOTS = { connections: 0, perAddress: NO_LIMIT, waiting: 0 };

/** A worker, a limiter, and the channel between them, which delivers on request. */
function workerAt(limiter: LocalLimiter) {
  const up: FromWorker[] = [];
  const down: ToWorker[] = [];
  const remote = createRemoteLimiters((message) => up.push(structuredClone(message)));
  const limiters = { limiter, smtpdLimiter: createLimiter(NO_SLOTS) };
  const workerSlots = openWorkerSlots(limiters, (message) => down.push(structuredClone(message)));
  async function upward(): Promise<void> {
    for (const message of up.splice(0)) workerSlots.receive(message);
    await settled();
  }
  async function downward(): Promise<void> {
    for (const message of down.splice(0)) remote.receive(message);
    await settled();
  }
  return { remote: remote.limiter, workerSlots, upward, downward, down };
}

describe('a limiter in another process', () => {
  it('counts over all workers', async () => {
    const limiter = createLimiter({ connections: 2, perAddress: 2, waiting: 1 });
    const [one, other] = [workerAt(limiter), workerAt(limiter)];
    const slots = [one.remote.slot('a'), other.remote.slot('a'), one.remote.slot('b')];
    for (const worker of [one, other, one, other]) {
      await worker.upward();
      await worker.downward();
    }
    assert.deepEqual(await Promise.all(slots.map(outcome)), ['admitted', 'waiting', 'admitted']);
    const more = [other.remote.slot('a'), other.remote.slot('c')];
    await other.upward();
    await other.downward();
    assert.deepEqual(await Promise.all(more.map(outcome)), ['per-address', 'no-room']);
    slots[0]?.release();
    await one.upward();
    await other.downward();
    assert.equal(limiter.waiting(), 0);
    assert.deepEqual(await Promise.all(slots.slice(1).map(outcome)), ['admitted', 'admitted']);
  });

  it('grants one claim of two', async () => {
    const limiter = createLimiter({ connections: 9, perAddress: 1, waiting: 0 });
    const workers = [workerAt(limiter), workerAt(limiter)];
    const claims = workers.map(({ remote }) => remote.slot(undefined).claim('a'));
    for (const worker of workers) {
      await worker.upward();
      await worker.downward();
    }
    assert.deepEqual(await Promise.all(claims), [true, false]);
  });

  it('releases the slots of a worker that has exited, and sends it nothing more', async () => {
    const limiter = createLimiter({ connections: 2, perAddress: 2, waiting: 1 });
    const [one, other] = [workerAt(limiter), workerAt(limiter)];
    for (const address of ['a', 'a', 'b']) one.remote.slot(address);
    await one.upward();
    assert.deepEqual([limiter.active(), limiter.waiting()], [2, 1]);
    const sent = one.down.length;
    one.workerSlots.close();
    await settled();
    assert.equal(one.down.length, sent);
    assert.deepEqual([limiter.active(), limiter.waiting()], [0, 0]);
    const slots = [other.remote.slot('a'), other.remote.slot('a')];
    await other.upward();
    await other.downward();
    assert.deepEqual(await Promise.all(slots.map(outcome)), ['admitted', 'admitted']);
  });

  it('keeps no memory of refused slots', async () => {
    const limiter = createLimiter({ connections: 1, perAddress: NO_LIMIT, waiting: 1 });
    const workerSlots = openWorkerSlots({ limiter, smtpdLimiter: limiter }, () => {});
    const before = await heapUsed();
    for (let slot = 1; slot <= 100_000; slot++) workerSlots.receive({ type: 'slot', slot, address: 'a' });
    const grown = (await heapUsed()) - before;
    assert.ok(grown < 5_000_000, `${grown} octets more`);
    assert.deepEqual([limiter.active(), limiter.waiting()], [1, 1]);
    workerSlots.close();
    assert.deepEqual([limiter.active(), limiter.waiting()], [0, 0]);
  });

  it('accepts a release that crosses its answer', async () => {
    const limiter = createLimiter({ connections: 1, perAddress: 1, waiting: 0 });
    const { remote, upward, downward } = workerAt(limiter);
    const slot = remote.slot('a');
    await upward();
    slot.release();
    slot.release();
    await downward();
    await upward();
    assert.equal(await outcome(slot), 'waiting', 'a released slot gets no decision');
    assert.deepEqual([limiter.active(), limiter.waiting()], [0, 0]);
  });

  for (let seed = 1; seed <= 20; seed++) {
    it(`never exceeds its limits, and ends at zero (seed ${seed})`, async () => {
      const random = createRandom(seed, 1);
      const limits = { connections: 3, perAddress: 2, waiting: 2 };
      const limiter = createLimiter(limits);
      const workers = [workerAt(limiter), workerAt(limiter), workerAt(limiter)] as const;
      const slots: Slot[] = [];
      for (let step = 0; step < 300; step++) {
        const worker = random.pick(workers);
        if (random.chance(30)) {
          const known = random.chance(70);
          const address = `192.0.2.${random.below(3)}`;
          const slot = worker.remote.slot(known ? address : undefined);
          if (!known) void slot.claim(address);
          slots.push(slot);
        } else if (random.chance(40)) {
          const [slot] = slots.splice(random.below(slots.length + 1), 1);
          slot?.release();
        } else if (random.chance(50)) await worker.upward();
        else await worker.downward();
        assert.ok(limiter.active() <= limits.connections);
        assert.ok(limiter.waiting() <= limits.waiting);
        assert.ok(limiter.waiting() === 0 || limiter.active() === limits.connections);
      }
      for (const slot of slots) slot.release();
      for (const worker of workers) await worker.upward();
      assert.deepEqual([limiter.active(), limiter.waiting()], [0, 0]);
      for (const address of ['192.0.2.0', '192.0.2.1', '192.0.2.2']) {
        const slot = limiter.slot(address);
        const other = limiter.slot(address);
        assert.deepEqual([await outcome(slot), await outcome(other)], ['admitted', 'admitted']);
        slot.release();
        other.release();
      }
    });
  }
});

/** An smtpd that accepts every command. */
const YES = `printf "220 ready\\r\\n"
while read -r line; do
  case $line in
    QUIT*) printf "221 bye\\r\\n"; exit 0;;
    *) printf "250 yes\\r\\n";;
  esac
done`;
const SMTPD = ['sh', '-c', YES];
const BUSY = '421 4.3.2 Mail server too busy, please try again later';
const TOO_MANY = '421 4.7.0 Too many connections from your address, please try again later';
const SLOW = '421 4.4.2 Idle timeout, closing connection, please try again';

/** Starts a server that is stopped when the test ends. */
async function start(t: TestContext, ...options: string[]): Promise<RunningServer> {
  const server = await startServer(options, SMTPD);
  t.after(() => server.close());
  return server;
}

/** Connects; the connection is closed when the test ends. */
async function connect(t: TestContext, port: number, localAddress = '127.0.0.1'): Promise<SmtpClient> {
  const client = await connectSmtp(port, { localAddress });
  t.after(() => client.destroy());
  return client;
}

/** Asserts that a client is served. */
async function assertGreeted(client: SmtpClient): Promise<void> {
  assert.equal(await client.reply(), '220 ready');
}

/** Asserts that a client receives that reply and nothing else. */
async function assertDismissed(client: SmtpClient, reply: string): Promise<void> {
  assert.equal(await client.rest(), `${reply}\r\n`);
}

async function quit(client: SmtpClient): Promise<void> {
  assert.equal(await client.ask('QUIT'), '221 bye');
  client.destroy();
}

/** Makes the kernel reset the connection. */
function reset(client: SmtpClient): void {
  client.tcp().resetAndDestroy();
}

/** Settles when the server reports that count. */
async function counted(server: RunningServer, name: string, number: number): Promise<void> {
  const counters = /event=counters [^\n]*\n/g;
  for (let asked = 1; asked <= 200; asked++) {
    const before = server.stderr().match(counters)?.length ?? 0;
    server.signal('SIGUSR1');
    await until('it counts', () => (server.stderr().match(counters)?.length ?? 0) > before);
    if (server.stderr().match(counters)?.at(-1)?.includes(` ${name}=${number} `)) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`timed out: ${name}=${number}: ${server.stderr()}`);
}

describe('-c', { concurrency: 2 }, () => {
  it('queues connections beyond it, in order', async (t) => {
    const server = await start(t, '-c', '1');
    const first = await connect(t, server.port);
    await assertGreeted(first);
    const second = await connect(t, server.port);
    await counted(server, 'waiting', 1);
    const third = await connect(t, server.port);
    await counted(server, 'waiting', 2);
    await quit(first);
    await assertGreeted(second);
    await counted(server, 'waiting', 1);
    assert.deepEqual(third.tcp().bytesRead, 0);
    await quit(second);
    await assertGreeted(third);
  });

  it('applies across workers', async (t) => {
    const server = await start(t, '-c', '3', '--workers', '2');
    const clients = await Promise.all(Array.from({ length: 8 }, () => connect(t, server.port)));
    const served: SmtpClient[] = [];
    for (const client of clients) {
      client.reply().then(
        () => served.push(client),
        () => {},
      );
    }
    await counted(server, 'waiting', 5);
    for (let left = clients.length; left > 0; left--) {
      await until('the next is served', () => served.length > 0);
      await counted(server, 'waiting', Math.max(0, left - 3));
      const client = served.shift();
      assert.ok(client !== undefined);
      await quit(client);
    }
  });

  it('releases the slot of a client that disconnects without QUIT', async (t) => {
    const server = await start(t, '-c', '1');
    const first = await connect(t, server.port);
    await assertGreeted(first);
    const second = await connect(t, server.port);
    await counted(server, 'waiting', 1);
    first.destroy();
    await assertGreeted(second);
  });
});

describe('-b', { concurrency: 2 }, () => {
  for (const workers of ['1', '2']) {
    it(`bounds the queue, with ${workers}`, async (t) => {
      const server = await start(t, '-c', '1', '-b', '1', '--workers', workers);
      const first = await connect(t, server.port);
      await assertGreeted(first);
      const second = await connect(t, server.port);
      await counted(server, 'waiting', 1);
      await assertDismissed(await connect(t, server.port), BUSY);
      await server.logs(/warning: event=refused id=\S+ remote=127\.0\.0\.1:\d+ why=no-room\n/);
      await quit(first);
      await assertGreeted(second);
    });
  }

  for (const workers of ['1', '2']) {
    for (const [what, go] of [
      ['closes', (client: SmtpClient) => client.end()],
      ['resets the connection', reset],
      [
        'sends a command and resets the connection',
        (client: SmtpClient) => {
          client.sendLines('NOOP');
          reset(client);
        },
      ],
      [
        'sends a command, half-closes and resets the connection',
        async (client: SmtpClient) => {
          client.sendLines('NOOP');
          client.end();
          await once(client.tcp(), 'finish');
          reset(client);
        },
      ],
      [
        'sends more than is read and resets the connection',
        async (client: SmtpClient) => {
          client.send('NOOP\r\n'.repeat(1_000_000));
          let left = 0;
          await until('no more is read', () => {
            const before = left;
            left = client.tcp().writableLength;
            return left === before;
          });
          reset(client);
        },
      ],
    ] as const) {
      it(`frees the queue position of a client that waits and ${what}, with ${workers} worker(s)`, async (t) => {
        const server = await start(t, '-c', '1', '-b', '1', '--workers', workers);
        const first = await connect(t, server.port);
        await assertGreeted(first);
        const second = await connect(t, server.port);
        await counted(server, 'waiting', 1);
        await go(second);
        await counted(server, 'waiting', 0);
        const third = await connect(t, server.port);
        await counted(server, 'waiting', 1);
        await quit(first);
        await assertGreeted(third);
        await quit(third);
        await counted(server, 'smtpd_exits', 2);
      });
    }
  }

  for (const workers of ['1', '2']) {
    it(`serves a client that sent all its commands and half-closed while waiting, with ${workers} worker(s)`, async (t) => {
      const server = await start(t, '-c', '1', '--workers', workers);
      const first = await connect(t, server.port);
      await assertGreeted(first);
      const second = await connect(t, server.port);
      second.sendLines('NOOP', 'QUIT');
      second.end();
      await counted(server, 'waiting', 1);
      await quit(first);
      await assertGreeted(second);
      assert.equal(await second.reply(), '250 yes');
      assert.equal(await second.reply(), '221 bye');
    });
  }

  it('keeps what a client sends while it waits', async (t) => {
    const server = await start(t, '-c', '1');
    const first = await connect(t, server.port);
    await assertGreeted(first);
    const second = await connect(t, server.port);
    second.sendLines('NOOP');
    await counted(server, 'waiting', 1);
    second.sendLines('QUIT');
    await quit(first);
    await assertGreeted(second);
    assert.equal(await second.reply(), '250 yes');
    assert.equal(await second.reply(), '221 bye');
  });

  it('continues a handshake that the client began while waiting', async (t) => {
    const server = await start(t, '-c', '1', '--implicit-tls');
    const [first, second] = [await connect(t, server.port), await connect(t, server.port)];
    const handshakes = [first.shakeHands(), second.shakeHands()];
    await Promise.race(handshakes);
    await counted(server, 'waiting', 1);
    first.destroy();
    second.destroy();
    await Promise.allSettled(handshakes);
    const third = await connect(t, server.port);
    await third.shakeHands();
    await assertGreeted(third);
    const fourth = await connect(t, server.port);
    const shaking = fourth.shakeHands();
    await counted(server, 'waiting', 1);
    await quit(third);
    await shaking;
    await assertGreeted(fourth);
  });
});

describe('-C', { concurrency: 2 }, () => {
  for (const workers of ['1', '2']) {
    it(`refuses connections beyond it from one address, with ${workers}`, async (t) => {
      const server = await start(t, '-C', '2', '--workers', workers);
      const clients = [await connect(t, server.port), await connect(t, server.port)] as const;
      for (const client of clients) await assertGreeted(client);
      await assertDismissed(await connect(t, server.port), TOO_MANY);
      await server.logs(/warning: event=refused id=\S+ remote=127\.0\.0\.1:\d+ why=per-address\n/);
      await assertGreeted(await connect(t, server.port, '127.0.0.2'));
      await quit(clients[0]);
      await counted(server, 'open', 2);
      await assertGreeted(await connect(t, server.port));
      await counted(server, 'refused', 1);
    });
  }

  it('closes without a reply under --implicit-tls', async (t) => {
    const server = await start(t, '-C', '1', '--implicit-tls');
    const first = await connect(t, server.port);
    await first.shakeHands();
    await assertGreeted(first);
    const second = await connect(t, server.port);
    assert.equal(await second.rest(), '');
  });
});

describe('a timeout', { concurrency: 2 }, () => {
  it('ends the wait for a slot', async (t) => {
    // A busy machine may take a second to start smtpd.
    const server = await start(t, '-c', '1', '-t', '3');
    const first = await connect(t, server.port);
    await assertGreeted(first);
    assert.equal(await first.ask('MAIL FROM:<>'), '250 yes');
    await assertDismissed(await connect(t, server.port), BUSY);
    await server.logs(/why=wait-timeout\n/);
    await quit(first);
  });

  it('ends an idle dialogue (-t)', async (t) => {
    const server = await start(t, '-t', '3');
    const client = await connect(t, server.port);
    await assertGreeted(client);
    await assertDismissed(client, SLOW);
  });

  it('ends an idle handshake (-K)', async (t) => {
    const server = await start(t, '-K', '300');
    const client = await connect(t, server.port);
    await assertGreeted(client);
    assert.match(await client.ask('STARTTLS'), /^220 /);
    assert.equal(await client.rest(), '');
    await server.logs(
      /warning: event=session id=\S+ [^\n]*text="unable to start TLS: the handshake took too long"\n/,
    );
    await counted(server, 'handshake_failures', 1);
  });

  it('ends an idle handshake under --implicit-tls (-K)', async (t) => {
    const server = await start(t, '-K', '300', '--implicit-tls');
    const client = await connect(t, server.port);
    assert.equal(await client.rest(), '');
    await server.logs(/warning: event=tls-failed id=\S+ [^\n]*text="the handshake took too long"\n/);
    await counted(server, 'handshake_failures', 1);
  });

  it('ends an idle relay (-T)', async (t) => {
    const server = await start(t, '-T', '3');
    const client = await connect(t, server.port);
    await assertGreeted(client);
    await client.startTls();
    assert.equal(await client.ask('EHLO me'), '250 yes');
    await assertDismissed(client, SLOW);
    await server.logs(/text="relay idle timeout, closing"\n/);
  });
});
