/** Clients that abuse TLS and clients that do not read, with each program that does TLS. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { serve } from '../support/chain.ts';
import { floodKeyUpdates, noKeyUpdateClient } from '../support/key-update.ts';
import { childrenOf, until } from '../support/processes.ts';
import { ours } from '../support/programs.ts';
import { serverEnvironment, startServer } from '../support/server.ts';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';
import { DEADLINE, within } from '../support/within.ts';

/** An smtpd that answers NOOP with 100 octets, and VRFY with much more than all buffers of the path hold. */
const SMTPD = [
  'sh',
  '-c',
  `long=$(printf %094d 0)
  printf "220 ready\\r\\n"
  while read -r line; do
    case $line in
      QUIT*) printf "221 bye\\r\\n"; exit 0;;
      NOOP*) printf "250 %s\\r\\n" $long || exit 1;;
      VRFY*) head -c 50000000 /dev/zero | tr "\\0" x || exit 1;;
      *) printf "250 ok\\r\\n";;
    esac
  done`,
];

/** A program that does TLS, with an smtpd behind it. */
interface FrontEnd {
  readonly port: number;
  /** Sends a signal to the process that does TLS. */
  signal(name: NodeJS.Signals): Promise<void>;
  /** Settles when nothing is left of the only session. */
  gone(): Promise<void>;
  logs(pattern: RegExp): Promise<void>;
}

type Start = (t: TestContext, options: readonly string[]) => Promise<FrontEnd>;

async function server(t: TestContext, options: readonly string[]): Promise<FrontEnd> {
  const running = await startServer(['-c', '1', ...options], SMTPD);
  t.after(running.close);
  return {
    port: running.port,
    signal: async (name) => running.signal(name),
    gone: () => until('smtpd is gone', () => childrenOf(running.pid).length === 0, 60_000),
    logs: (pattern) => within(DEADLINE, `line ${pattern}`, running.logs(pattern)),
  };
}

async function chain(t: TestContext, command: readonly string[]): Promise<FrontEnd> {
  const running = await serve([...command, ...SMTPD], serverEnvironment());
  t.after(running.close);
  return {
    port: running.port,
    signal: async (name) => (await running.served(0)).kill(name),
    gone: () =>
      within(
        DEADLINE,
        'end of the session',
        running.served(0).then((one) => one.ended),
      ).then(() => {}),
    logs: async (pattern) => within(DEADLINE, `line ${pattern}`, (await running.served(0)).logs(pattern)),
  };
}

const PROGRAMS: Readonly<Record<string, Start>> = {
  'smtpd-starttls-server': server,
  'smtpd-starttls-proxy': (t, options) => chain(t, [ours('smtpd-starttls-proxy'), ...options]),
  'ucspi-tlsd': (t, options) =>
    chain(t, [ours('ucspi-tlsd'), '--', ours('smtpd-starttls-proxy-io'), ...options]),
};

/** A client in TLS that reads nothing. */
async function connectUnreading(t: TestContext, port: number): Promise<SmtpClient> {
  const client = await connectSmtp(port);
  t.after(client.destroy);
  await client.reply();
  await client.startTls();
  client.tls().removeAllListeners('data');
  client.pause();
  return client;
}

for (const [name, start] of Object.entries(PROGRAMS)) {
  describe(name, { concurrency: 3, timeout: 100_000 }, () => {
    it('ends a session whose client resets the connection with unread replies', async (t) => {
      const { port, signal, gone } = await start(t, []);
      const client = await connectUnreading(t, port);
      const socket = client.tls();
      // The program finds all of this at once when it continues.
      await signal('SIGSTOP');
      await new Promise((resolve) => socket.write('NOOP\r\n'.repeat(31_000), resolve));
      client.tcp().resetAndDestroy();
      await signal('SIGCONT');
      await gone();
    });

    // ucspi-tlsd gives a client a minute, which is tested with a clock that stands still.
    if (name === 'ucspi-tlsd') return;
    it('ends a session whose client has half-closed and does not read', async (t) => {
      const { port, gone } = await start(t, ['-t', '5']);
      const client = await connectUnreading(t, port);
      client.sendLines('VRFY everybody');
      client.end();
      await gone();
    });
  });
}

describe('smtpd-starttls-server', { concurrency: 3, timeout: 100_000 }, () => {
  it('ends a session whose client does not read', async (t) => {
    const { port, gone, logs } = await server(t, ['-t', '5']);
    const client = await connectUnreading(t, port);
    client.sendLines('VRFY everybody');
    await gone();
    await logs(/the client does not read its replies, closing/);
  });

  for (const inTls of [false, true]) {
    it(`does not end a session whose client reads slowly in ${inTls ? 'TLS' : 'cleartext'}`, async (t) => {
      // A busy machine may keep the client from reading for a second.
      const { port } = await server(t, ['-t', '3']);
      const client = await connectSmtp(port);
      t.after(client.destroy);
      await client.reply();
      if (inTls) await client.startTls();
      else await client.ask('HELO client.example');
      const socket = client.socket();
      socket.removeAllListeners('data');
      socket.pause();
      client.sendLines('VRFY everybody');
      // Much longer than the timeout, during which some of it is taken now and then.
      const end = performance.now() + 10_000;
      let read = 0;
      socket.on('data', (bytes: Buffer) => {
        read += bytes.length;
        socket.pause();
      });
      while (performance.now() < end) {
        const before = read;
        while (read - before < 200_000) {
          socket.resume();
          await once(socket, 'data');
        }
        await setTimeout(100);
      }
      assert.equal(socket.destroyed, false);
      socket.on('data', () => socket.resume());
      socket.resume();
      await until('all has come', () => read === 50_000_000 || socket.destroyed, 60_000);
      assert.equal(read, 50_000_000);
    });
  }

  it('frees the slot of a client that resets after an implicit handshake', async (t) => {
    const { port } = await server(t, ['--implicit-tls']);
    const client = await connectSmtp(port);
    await client.shakeHands();
    client.tls().write('NOOP\r\n'.repeat(31_000));
    client.tcp().resetAndDestroy();
    const next = await connectSmtp(port);
    t.after(next.destroy);
    await next.shakeHands();
    assert.equal(await next.reply(), '220 ready');
  });

  describe('ends a session whose client floods it with KeyUpdate', { skip: noKeyUpdateClient() }, () => {
    it('without data', async (t) => {
      const { port, logs } = await server(t, []);
      const client = floodKeyUpdates(t, port, '');
      await logs(/event=tls-closed [^\n]*text="the client does not read the answers to its TLS records"/);
      assert.equal(await client, 0);
    });

    it('with data, and reads no reply', async (t) => {
      const { port, logs } = await server(t, []);
      const client = floodKeyUpdates(t, port, 'x'.repeat(40));
      await logs(/event=tls-closed [^\n]*text="the client does not read the answers to its TLS records"/);
      assert.equal(await client, 0);
    });
  });
});
