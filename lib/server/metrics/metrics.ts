import type { Verdict } from '../../smtp/dialogue.ts';
import { REACH_RESULTS, type ReachResult } from '../../smtpd/relay/failure.ts';
import { REFUSALS, type Refusal } from '../connection/admission.ts';
import { ALL_FAMILIES, FAMILIES, type Family, VERDICTS } from './families.ts';
import { type MetricsSnapshot, snapshotOf } from './snapshot.ts';
import { createStore, type Row, rowOf } from './store.ts';

/** A successful TLS handshake. */
export interface HandshakeFacts {
  /** As Node names it, "TLSv1.3". */
  readonly protocol: string | undefined;
  /** As OpenSSL names it, "TLS_AES_128_GCM_SHA256". */
  readonly cipher: string | undefined;
  /** Whether it resumed an earlier session. */
  readonly resumed: boolean;
  readonly seconds: number;
}

/** Counts events. Every method is cheap enough to be called several times per session. */
export interface Metrics {
  connectionAccepted(): void;
  connectionRefused(reason: Refusal): void;
  /** How many connections are open now, including those that wait for a slot. */
  setOpen(count: number): void;
  /** How many connections wait for a slot now. */
  setWaiting(count: number): void;
  verdictReached(verdict: Verdict): void;
  /** A session was closed because too many commands were refused. */
  errorLimitReached(): void;
  /** A client sent data before the greeting. */
  earlyTalker(): void;
  /** @param seconds from its connection to its end. */
  sessionEnded(seconds: number): void;
  handshakeDone(facts: HandshakeFacts): void;
  /** @param reason a short name from a small set. After 32 different names, new ones count as "other". */
  handshakeFailed(reason: string): void;
  /** @param status as in SmtpdEnd (lib/smtpd/smtpd.ts): 128 plus the signal number when killed by a signal. */
  smtpdEnded(status: number): void;
  /** An smtpd was started. */
  smtpdStarted(): void;
  /** It has ended. */
  smtpdStopped(): void;
  /** A session ended without having needed an smtpd. */
  sessionWithoutSmtpd(): void;
  /** Creates the series of a URL, so that a rate includes their first event. */
  relayExpected(url: string): void;
  /** An attempt to reach the server of a URL has ended. */
  relayAttempted(url: string, result: ReachResult): void;
  /** @param octets received from a client on the wire, TLS records included. */
  received(octets: number): void;
  /** @param octets sent to a client on the wire, TLS records included. */
  sent(octets: number): void;
  /** @param seconds from the connection to the first octet of the greeting. */
  greeted(seconds: number): void;
  /** Copies the current counts. */
  snapshot(): MetricsSnapshot;
}

/**
 * Creates metrics, with all counts 0. Series whose labels are known in advance exist from the start, so that a rate
 * includes their first event.
 *
 * @param startTime when the process was started, in seconds since the Unix epoch.
 */
export function createMetrics(startTime: number = performance.timeOrigin / 1000): Metrics {
  const store = createStore();
  /** The rows of families without labels, which need not be looked up at each event. */
  const unlabelled = new Map(
    ALL_FAMILIES.filter(({ labels }) => labels.length === 0).map((family) => [family, rowOf(store, family)]),
  );
  const row = (family: Family, ...labels: readonly string[]): Row =>
    unlabelled.get(family) ?? rowOf(store, family, ...labels);
  for (const reason of REFUSALS) row(FAMILIES.refused, reason);
  for (const verdict of VERDICTS) row(FAMILIES.sessions, verdict);
  row(FAMILIES.exits, '0');
  set(row(FAMILIES.started), startTime);

  let running = 0;

  function observe(family: Family, value: number): void {
    const { bounds } = family;
    const bucket = bounds.findIndex((bound) => value <= bound);
    const counts = row(family);
    increase(counts, 1, bucket === -1 ? bounds.length : bucket);
    increase(counts, value, bounds.length + 1);
  }

  return {
    connectionAccepted: () => increase(row(FAMILIES.accepted)),
    connectionRefused: (reason) => increase(row(FAMILIES.refused, reason)),
    setOpen: (count) => set(row(FAMILIES.open), count),
    setWaiting: (count) => set(row(FAMILIES.waiting), count),
    verdictReached: (verdict) => increase(row(FAMILIES.sessions, verdict)),
    errorLimitReached: () => increase(row(FAMILIES.errorLimit)),
    earlyTalker: () => increase(row(FAMILIES.earlyTalkers)),
    sessionEnded: (seconds) => observe(FAMILIES.sessionTime, seconds),
    handshakeDone: ({ protocol = 'unknown', cipher = 'unknown', resumed, seconds }) => {
      increase(row(FAMILIES.handshakes, protocol, cipher, resumed ? 'yes' : 'no'));
      observe(FAMILIES.handshakeTime, seconds);
    },
    handshakeFailed: (reason) => increase(row(FAMILIES.handshakeFailures, reason)),
    smtpdStarted: () => {
      increase(row(FAMILIES.smtpdsStarted));
      running += 1;
      set(row(FAMILIES.smtpdsRunning), running);
    },
    smtpdStopped: () => {
      running -= 1;
      set(row(FAMILIES.smtpdsRunning), running);
    },
    sessionWithoutSmtpd: () => increase(row(FAMILIES.withoutSmtpd)),
    relayExpected: (url) => {
      for (const result of REACH_RESULTS) row(FAMILIES.relayAttempts, url, result);
    },
    relayAttempted: (url, result) => increase(row(FAMILIES.relayAttempts, url, result)),
    smtpdEnded: (status) => increase(row(FAMILIES.exits, String(status))),
    received: (octets) => increase(row(FAMILIES.received), octets),
    sent: (octets) => increase(row(FAMILIES.sent), octets),
    greeted: (seconds) => observe(FAMILIES.greetingTime, seconds),
    snapshot: () => snapshotOf(store),
  };
}

function set(row: Row, value: number): void {
  row.numbers[0] = value;
}

/** Ignores amounts that are negative, infinite or NaN: a counter never decreases or becomes NaN. */
function increase(row: Row, amount = 1, index = 0): void {
  if (amount > 0 && amount < Number.POSITIVE_INFINITY)
    row.numbers[index] = (row.numbers[index] ?? 0) + amount;
}
