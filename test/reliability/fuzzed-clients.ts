import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls, createSecureContext } from 'node:tls';
import { clientInput } from '../fuzz/input.ts';
import { createRandom, type Random } from '../fuzz/random.ts';
import { connectTcp } from '../support/controlled-program.ts';

/** Clients that send generated input, many of them at once. */
export interface FuzzedClients {
  /** Starts no more, waits for the end of the others, and returns how many there were. */
  stop(): Promise<number>;
}

/** How long one of them may last, in milliseconds. */
const LONGEST = 5_000;

const CONTEXT = createSecureContext();

/**
 * Connects clients until it is stopped: half of them send their input in TLS. Each ends by a half-close, by a reset,
 * or when the server closes. What they get is not looked at.
 *
 * @param rate how many are connected a second.
 */
export function startFuzzedClients(port: number, rate: number, seed: number): FuzzedClients {
  const open = new Set<Promise<void>>();
  let count = 0;
  const timer = setInterval(() => {
    const client = runClient(port, createRandom(seed, count)).catch(() => {});
    count += 1;
    open.add(client);
    void client.then(() => open.delete(client));
  }, 1000 / rate);
  return {
    stop: async () => {
      clearInterval(timer);
      await Promise.all(open);
      return count;
    },
  };
}

async function runClient(port: number, random: Random): Promise<void> {
  const tcp = await connectTcp(port);
  const isOver = new Promise<void>((resolve) => tcp.on('close', () => resolve()));
  const limit = setTimeout(() => tcp.destroy(), LONGEST);
  try {
    const stream = random.chance(50) ? await startTls(tcp, random) : tcp;
    stream.on('error', () => {});
    stream.resume();
    for (let rest = clientInput(random).text; rest !== ''; ) {
      const size = random.chance(50) ? rest.length : 1 + random.below(rest.length);
      stream.write(Buffer.from(rest.slice(0, size), 'latin1'));
      rest = rest.slice(size);
      if (random.chance(20)) await sleep(random.below(50));
    }
    if (random.chance(30)) tcp.resetAndDestroy();
    else if (random.chance(70)) stream.end();
    await isOver;
  } finally {
    clearTimeout(limit);
    tcp.destroy();
  }
}

/** Starts TLS with a client that does not wait for replies longer than it must. */
async function startTls(tcp: Socket, random: Random): Promise<Socket> {
  await received(tcp, /^220 /);
  if (random.chance(50)) {
    tcp.write('EHLO fuzz.example\r\n');
    await received(tcp, /^250 /m);
  }
  tcp.write('STARTTLS\r\n');
  await received(tcp, /^220 /m);
  const tls = connectTls({ socket: tcp, secureContext: CONTEXT, rejectUnauthorized: false });
  await new Promise<void>((resolve, reject) => {
    tls.once('secureConnect', resolve);
    tls.once('error', reject);
    tcp.once('close', () => reject(new Error('closed in the handshake')));
  });
  return tls;
}

/** Settles when a line that matches has arrived; nothing is read after it. */
function received(tcp: Socket, pattern: RegExp): Promise<void> {
  return new Promise((resolve, reject) => {
    let text = '';
    const closed = (): void => reject(new Error('closed'));
    tcp.on('close', closed);
    tcp.on('data', function collect(bytes: Buffer) {
      text += bytes.toString('latin1');
      if (!pattern.test(text)) return;
      tcp.off('data', collect);
      tcp.off('close', closed);
      tcp.pause();
      resolve();
    });
    tcp.resume();
  });
}
