/** The measures that are taken in rounds: what is done in a round, and what is read from it. */
import { percentile } from './figures.ts';
import type { Cost, Handshake, Task } from './jobs.ts';
import type { System } from './systems.ts';

/** How long rounds are, how many there are, and how much is sent or held. */
export interface Sizes {
  readonly rounds: number;
  /** Of a round. */
  readonly seconds: number;
  /** How long a server is warmed up, in seconds. */
  readonly warmUp: number;
  /** Octets of the long message. */
  readonly transfer: number;
  /** How many idle sessions, in rising order. */
  readonly idle: readonly number[];
  /** For how many seconds at the most idle sessions are opened. */
  readonly idleSeconds: number;
  /** Pairs of starts, see starts.ts. */
  readonly starts: number;
}

/** A measure that is taken in rounds. */
export interface Measure {
  readonly letter: string;
  /** Its figures; two of them where one job gives both. */
  readonly readings: readonly Reading[];
  /** Whether it is taken of a system without TLS too. */
  readonly cleartext: boolean;
  /** Whether messages are sent in it. */
  readonly mail: boolean;
  /** What is done with a system that listens on the port. */
  job(port: number, sizes: Sizes, system: Pick<System, 'concurrency' | 'cleartext'>): Task;
}

/** One figure of a round. */
export interface Reading {
  readonly title: string;
  readonly unit: string;
  readonly better: 'more' | 'less';
  read(cost: Cost): number;
}

/** Octets of a short message. */
const MESSAGE = 78 * 128;

/** Those that are taken in rounds. */
export const MEASURES: readonly Measure[] = [
  {
    letter: 'a',
    readings: [sessionsPerSecond('sessions, full handshake')],
    cleartext: true,
    mail: false,
    job: (port, { seconds }, { concurrency, cleartext }) =>
      sessions(port, seconds, { concurrency, tls: cleartext ? 'none' : 'full', message: 0 }),
  },
  {
    letter: 'b',
    readings: [sessionsPerSecond('sessions, resumption asked for')],
    cleartext: false,
    mail: false,
    job: (port, { seconds }, { concurrency }) =>
      sessions(port, seconds, { concurrency, tls: 'resumed', message: 0 }),
  },
  {
    letter: 'c',
    readings: [sessionsPerSecond('sessions with a message of 10 kB')],
    cleartext: false,
    mail: true,
    job: (port, { seconds }, { concurrency }) =>
      sessions(port, seconds, { concurrency, tls: 'full', message: MESSAGE }),
  },
  {
    letter: 'd',
    readings: [greetingTime('median', 50), greetingTime('99th percentile', 99)],
    cleartext: true,
    mail: false,
    job: (port, { seconds }) => ({ kind: 'greetings', port, seconds }),
  },
  {
    letter: 'e',
    readings: [
      {
        title: 'one long message through TLS',
        unit: 'MB/s',
        better: 'more',
        read: ({ count, seconds }) => count / 1e6 / seconds,
      },
    ],
    cleartext: false,
    mail: true,
    job: (port, { transfer }) => ({ kind: 'transfer', port, size: transfer }),
  },
  {
    letter: 'h',
    readings: [sessionsPerSecond('sessions, one of ten with a message of 10 kB, nine with EHLO and QUIT')],
    cleartext: false,
    mail: true,
    job: (port, { seconds }, { concurrency }) =>
      sessions(port, seconds, { concurrency, tls: 'full', message: MESSAGE, messageEvery: 10 }),
  },
];

function sessions(
  port: number,
  seconds: number,
  kind: { concurrency: number; tls: Handshake; message: number; messageEvery?: number },
): Task {
  return { kind: 'sessions', port, seconds, ...kind };
}

function sessionsPerSecond(title: string): Reading {
  return { title, unit: 'sessions/s', better: 'more', read: ({ count, seconds }) => count / seconds };
}

function greetingTime(title: string, percent: number): Reading {
  return {
    title: `connect to greeting, cleartext, ${title}`,
    unit: 'ms',
    better: 'less',
    read: ({ times }) => percentile(times, percent),
  };
}
