/**
 * Clients that cost a server as much as they can. Each kind attacks at its own rate until the process is ended.
 *
 *     node --import tsx test/reliability/attacks.ts PORT KEY-UPDATE-CLIENT
 *
 * A process of its own, so that what the attacks cost their side does not slow the clients that are measured.
 * Prints, when it gets SIGTERM, how often each kind has attacked.
 */

import { spawn } from 'node:child_process';
import { connect, type Socket } from 'node:net';
import { type ConnectionOptions, createSecureContext } from 'node:tls';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';

/** A kind of attack. */
interface Attack {
  readonly what: string;
  /** How many begin in a second, and how many there are at most at a time. */
  readonly perSecond: number;
  readonly atOnce: number;
  /** Attacks once. Failures are the server's good right. */
  run(port: number): Promise<unknown>;
}

const [port = 0, keyUpdateClient = ''] = [Number(process.argv[2]), process.argv[3]];

/** How long an attack stays when nothing ends it, in milliseconds. */
const STAY = 20_000;

const ATTACKS: readonly Attack[] = [
  { what: 'asks for ffdhe8192', perSecond: 10, atOnce: 10, run: handshake({ ecdhCurve: 'ffdhe8192' }) },
  { what: 'takes P-384', perSecond: 10, atOnce: 10, run: handshake({ ecdhCurve: 'P-384' }) },
  {
    what: 'takes P-384 in TLS 1.2',
    perSecond: 10,
    atOnce: 10,
    run: handshake({ ecdhCurve: 'P-384', maxVersion: 'TLSv1.2' }),
  },
  { what: 'floods with KeyUpdate', perSecond: 0.2, atOnce: 1, run: floodKeyUpdates },
  { what: 'resets behind the handshake', perSecond: 5, atOnce: 20, run: resetInTls },
  { what: 'reads nothing', perSecond: 1, atOnce: 20, run: readNothing },
  { what: 'sends 4 MB of newlines', perSecond: 1, atOnce: 2, run: sendNewlines },
  { what: 'stops in the handshake', perSecond: 5, atOnce: 50, run: stopInHandshake },
  { what: 'connects and resets', perSecond: 50, atOnce: 50, run: connectAndReset },
];

const counts = new Map<string, number>();
for (const attack of ATTACKS) {
  let running = 0;
  counts.set(attack.what, 0);
  setInterval(() => {
    if (running >= attack.atOnce) return;
    running += 1;
    counts.set(attack.what, (counts.get(attack.what) ?? 0) + 1);
    void attack
      .run(port)
      .catch(() => {})
      .finally(() => {
        running -= 1;
      });
  }, 1000 / attack.perSecond);
}
process.on('uncaughtException', () => {});
process.on('SIGTERM', () => {
  for (const [what, count] of counts) process.stdout.write(`${count} ${what}\n`);
  process.exit(0);
});

/** Greets, starts TLS with a full handshake, and goes. */
function handshake(options: ConnectionOptions): (port: number) => Promise<void> {
  const secureContext = createSecureContext(options as Parameters<typeof createSecureContext>[0]);
  return async (to) => {
    const client = await connectSmtp(to);
    try {
      await client.reply();
      await client.startTls({ ...options, secureContext });
    } finally {
      client.destroy();
    }
  };
}

function floodKeyUpdates(to: number): Promise<void> {
  if (keyUpdateClient === '') return Promise.resolve();
  const client = spawn(keyUpdateClient, [String(to), 'STARTTLS', ''], { stdio: 'ignore' });
  return new Promise((resolve) => client.on('close', () => resolve()));
}

async function resetInTls(to: number): Promise<void> {
  const client = await inTls(to);
  client.tls().write('NOOP\r\n'.repeat(31_000));
  client.tcp().resetAndDestroy();
}

async function readNothing(to: number): Promise<void> {
  const client = await inTls(to);
  client.pause();
  client.send('NOOP\r\n'.repeat(200_000));
  await stay(client.tcp());
}

async function sendNewlines(to: number): Promise<void> {
  const client = await connectSmtp(to);
  await client.reply();
  client.send('\n'.repeat(4_000_000));
  await stay(client.tcp());
}

async function stopInHandshake(to: number): Promise<void> {
  const client = await connectSmtp(to);
  await client.reply();
  await client.ask('STARTTLS');
  client.send(Buffer.from(`1603010200010001fc0303${'00'.repeat(100)}`, 'hex'));
  await stay(client.tcp());
}

function connectAndReset(to: number): Promise<void> {
  return new Promise((resolve) => {
    const socket = connect(to, '127.0.0.1', () => socket.resetAndDestroy());
    socket.on('error', () => {});
    socket.on('close', () => resolve());
  });
}

async function inTls(to: number): Promise<SmtpClient> {
  const client = await connectSmtp(to);
  await client.reply();
  await client.startTls();
  return client;
}

/** Settles when the connection has been closed, at the latest after `STAY`. */
function stay(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => socket.destroy(), STAY);
    socket.on('error', () => {});
    socket.on('close', () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
