/**
 * The client that all systems are measured with: a process of its own, on a core of its own, which does one
 * job at a time and reports what it has cost. See `Job` in jobs.ts.
 */
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Answer, Cost, Failures, Job } from './jobs.ts';
import { cpuTimeOf } from './processes.ts';
import {
  cleartextSession,
  greet,
  makeLines,
  type OpenSession,
  openSession,
  sendMessage,
  type TicketStore,
} from './session.ts';

/** How much is written at once in a transfer, in octets: some 800 kB. */
const CHUNK = 78 * 10_000;

/** How long a loop runs before it counts, in milliseconds. */
const LEAD = 300;

/** The sessions of a job "hold". */
let held: OpenSession[] = [];

process.on('message', (job: Job) => {
  perform(job).then(answer, (error: unknown) => answer({ error: String(error) }));
});
process.on('disconnect', () => process.exit());

function answer(message: Answer): void {
  process.send?.(message);
}

function perform(job: Job): Promise<Cost> {
  switch (job.kind) {
    case 'sessions':
      return loop(job, job.concurrency, sessionsOf(job));
    case 'greetings':
      return loop(job, 1, () => greeting(job.port));
    case 'transfer':
      return transfer(job);
    case 'hold':
      return hold(job);
    case 'release':
      return release(job.server);
  }
}

/** What one turn of a loop has found. */
interface Turn {
  readonly resumed: boolean;
  /** The time that counts, in milliseconds. */
  readonly time: number;
}

/**
 * Takes turns, several at once, and counts those that end in the window: it opens when all are at work, and
 * closes before the last ones are waited for: otherwise a server with many at once would be measured half idle.
 */
async function loop(
  { seconds, server }: Job & { kind: 'sessions' | 'greetings' },
  concurrency: number,
  turn: (slot: number) => Promise<Turn>,
): Promise<Cost> {
  const times: number[] = [];
  const failures: Failures = { count: 0, first: '' };
  let resumed = 0;
  let phase: 'lead' | 'window' | 'over' = 'lead';
  async function keepOn(slot: number): Promise<void> {
    while (phase !== 'over') {
      try {
        const done = await turn(slot);
        if (phase !== 'window') continue;
        times.push(done.time);
        if (done.resumed) resumed += 1;
      } catch (error) {
        note(failures, error);
      }
    }
  }
  const slots = Array.from({ length: concurrency }, (_, slot) => keepOn(slot));
  await sleep(LEAD);
  phase = 'window';
  const close = openWindow(server);
  await sleep(seconds * 1000);
  phase = 'over';
  const window = close();
  await Promise.all(slots);
  return { ...window, count: times.length, times, resumed, failures };
}

/** Starts to count costs. @returns a function that returns the costs since then. */
function openWindow(server: number): () => Pick<Cost, 'seconds' | 'cpu' | 'serverCpu'> {
  const used = process.cpuUsage();
  const start = performance.now();
  const serverUsed = cpuTimeOf(server);
  return () => {
    const { user, system } = process.cpuUsage(used);
    const seconds = (performance.now() - start) / 1000;
    return { seconds, cpu: (user + system) / 1e6, serverCpu: cpuTimeOf(server) - serverUsed };
  };
}

function note(failures: Failures, error: unknown): void {
  if (failures.count === 0) failures.first = error instanceof Error ? error.message : String(error);
  failures.count += 1;
}

/** Whole sessions, each slot with a ticket of its own. */
function sessionsOf({
  port,
  tls,
  message,
  messageEvery = 1,
}: Job & { kind: 'sessions' }): (slot: number) => Promise<Turn> {
  let begun = 0;
  const stores = new Map<number, TicketStore>();
  const lines = makeLines(message);
  return async (slot) => {
    const start = performance.now();
    if (tls === 'none') {
      await cleartextSession(port);
      return { resumed: false, time: performance.now() - start };
    }
    const store = stores.get(slot) ?? { ticket: undefined };
    stores.set(slot, store);
    begun += 1;
    const hasMessage = message > 0 && begun % messageEvery === 0;
    const session = await openSession(port, tls === 'resumed' ? store : undefined);
    if (hasMessage) await sendMessage(session, () => void session.socket.write(lines));
    await session.quit();
    return { resumed: session.resumed, time: performance.now() - start };
  };
}

async function greeting(port: number): Promise<Turn> {
  const start = performance.now();
  const { socket, conversation } = await greet(port);
  const time = performance.now() - start;
  conversation.leave();
  // stunnel knows no command but EHLO here and resets the connection: an end as good as any.
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.end('QUIT\r\n').resume();
  await closed;
  return { resumed: false, time };
}

/** One message; the time is from MAIL to the reply behind the last octet. */
async function transfer({ port, size, server }: Job & { kind: 'transfer' }): Promise<Cost> {
  const chunk = makeLines(CHUNK);
  const failures: Failures = { count: 0, first: '' };
  let close = openWindow(server);
  try {
    const session = await openSession(port);
    let sent = 0;
    close = openWindow(server);
    await sendMessage(session, async () => {
      for (; sent < size; sent += chunk.length) {
        if (!session.socket.write(chunk)) await drained(session);
      }
    });
    const window = close();
    await session.quit();
    return { ...window, count: sent, times: [], resumed: 0, failures };
  } catch (error) {
    note(failures, error);
    return { ...close(), count: 0, times: [], resumed: 0, failures };
  }
}

function drained({ socket }: OpenSession): Promise<void> {
  return new Promise((resolve, reject) => {
    function settle(): void {
      socket.off('drain', settle);
      socket.off('close', settle);
      if (socket.destroyed) reject(new Error('the server has hung up in the message'));
      else resolve();
    }
    socket.on('drain', settle);
    socket.on('close', settle);
  });
}

/** Opens sessions, on top of those that are held, until there are so many or the time is over. */
async function hold({ port, count, seconds, concurrency, server }: Job & { kind: 'hold' }): Promise<Cost> {
  const end = performance.now() + seconds * 1000;
  const failures: Failures = { count: 0, first: '' };
  const close = openWindow(server);
  let opening = 0;
  async function open(): Promise<void> {
    while (held.length + opening < count && failures.count < 10 && performance.now() < end) {
      opening += 1;
      try {
        const session = await openSession(port);
        session.socket.setTimeout(0);
        held.push(session);
      } catch (error) {
        note(failures, error);
      }
      opening -= 1;
    }
  }
  await Promise.all(Array.from({ length: concurrency }, open));
  // Those that the server has ended in the meantime do not count.
  held = held.filter(({ socket }) => !socket.destroyed);
  return { ...close(), count: held.length, times: [], resumed: 0, failures };
}

async function release(server: number): Promise<Cost> {
  const close = openWindow(server);
  const count = held.length;
  for (const { socket } of held) socket.destroy();
  held = [];
  return { ...close(), count, times: [], resumed: 0, failures: { count: 0, first: '' } };
}
