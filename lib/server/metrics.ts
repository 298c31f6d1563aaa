/**
 * What a resident server counts, without I/O.
 *
 * Everything counted belongs to a *family* (a metric of Prometheus), and a family has a *series* for each
 * set of label values. A series is a row of numbers: one for a counter or a gauge; for a histogram one for
 * each bucket, alone and not cumulative, one for what is above the last bound, and the sum. So the rows of
 * several processes are merged by adding them number by number, and only `formatPrometheus` knows more.
 *
 * No family grows without bound: the label values are few by their nature, or come from outside (a reason,
 * a cipher) and are cut off at a number of series. What comes later is counted under "other".
 */

/** Why a connection was refused before there was a session. */
export const REFUSALS = [
  /** Too many connections of that address. */
  'per-address',
  /** Too many connections in all. */
  'no-room',
  /** It waited too long for its turn. */
  'wait-timeout',
  /** The PROXY header is bad, or did not come in time. */
  'proxy-header',
  /** A PROXY header is asked for, and it does not come from a trusted proxy. */
  'untrusted',
  /** The server is being stopped. */
  'stopping',
] as const;
export type Refusal = (typeof REFUSALS)[number];

/** How the dialogue of a session ended; see lib/smtp/dialogue.ts. */
export const VERDICTS = ['plaintext', 'tls', 'close'] as const;
export type SessionVerdict = (typeof VERDICTS)[number];

/** A TLS handshake that went well. */
export interface HandshakeFacts {
  /** As Node names it, "TLSv1.3". */
  readonly protocol: string | undefined;
  /** As OpenSSL names it, "TLS_AES_128_GCM_SHA256". */
  readonly cipher: string | undefined;
  /** Whether it resumed an earlier session. */
  readonly resumed: boolean;
  readonly seconds: number;
}

/** Counts. All of it is cheap enough for several calls a session. */
export interface Metrics {
  connectionAccepted(): void;
  connectionRefused(reason: Refusal): void;
  /** How many connections are open now, those that wait for their turn among them. */
  setOpen(count: number): void;
  /** How many connections wait for their turn now. */
  setWaiting(count: number): void;
  verdictReached(verdict: SessionVerdict): void;
  /** @param seconds from its connection to its end. */
  sessionEnded(seconds: number): void;
  handshakeDone(facts: HandshakeFacts): void;
  /** @param reason a short name out of a small set. After 32 different ones, new ones count as "other". */
  handshakeFailed(reason: string): void;
  /** @param status as in ChildEnd (lib/stream/child.ts): 128 and the signal's number for a killed one. */
  smtpdEnded(status: number): void;
  /** @param octets that came from a client, as they were on the wire. */
  received(octets: number): void;
  /** @param octets that went to a client, as they were on the wire. */
  sent(octets: number): void;
  /** @param seconds from the connection to the first octet of the greeting. */
  greeted(seconds: number): void;
  /** What was counted so far. It stays as it is. */
  snapshot(): MetricsSnapshot;
}

/** A row of numbers and the label values that it is for, in the order of the family's labels. */
export interface Series {
  readonly labels: readonly string[];
  readonly numbers: readonly number[];
}

/** What was counted, by the name of the family: plain JSON, fit for a channel between processes. */
export type MetricsSnapshot = Readonly<Record<string, readonly Series[]>>;

interface Family {
  /** Without the prefix. */
  readonly name: string;
  readonly help: string;
  readonly kind: 'counter' | 'gauge' | 'histogram';
  readonly labels: readonly string[];
  /** How many series it may have before "other". */
  readonly most: number;
  /** The upper bounds of its buckets, without that of infinity. */
  readonly bounds: readonly number[];
  /** Makes one number of those of two processes. */
  readonly merge: (one: number, other: number) => number;
}

const PREFIX = 'smtpd_starttls_';
const OTHER = 'other';
/** The most characters of a label value. */
const MAX_LABEL = 64;
const MAX_REASONS = 32;

const STARTED: Family = {
  ...gauge('start_time_seconds', 'When the server was started, in seconds since 1970.'),
  // The first of the processes began before it started the others. 0 is what a new row has.
  merge: (one, other) => (one === 0 || other === 0 ? one + other : Math.min(one, other)),
};
const ACCEPTED = counter('connections_accepted_total', 'Connections that were accepted.');
const REFUSED = counter(
  'connections_refused_total',
  'Connections closed before there was a session, by reason.',
  ['reason'],
);
const OPEN = gauge('connections_open', 'Connections that are open now, waiting ones too.');
const WAITING = gauge('connections_waiting', 'Connections that wait for their turn now.');
const SESSIONS = counter('sessions_total', 'Sessions by what their dialogue ended in.', ['verdict']);
const HANDSHAKES = counter('tls_handshakes_total', 'TLS handshakes that went well.', [
  'protocol',
  'cipher',
  'resumed',
]);
const FAILURES = counter('tls_handshake_failures_total', 'TLS handshakes that failed, by reason.', [
  'reason',
]);
const EXITS = counter('smtpd_exits_total', 'smtpd processes that ended, by exit status.', ['status']);
const RECEIVED = counter('received_bytes_total', 'Bytes received from clients, on the wire.');
const SENT = counter('sent_bytes_total', 'Bytes sent to clients, on the wire.');
const SESSION_TIME = histogram(
  'session_duration_seconds',
  'Time from a connection to its end.',
  [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800],
);
const HANDSHAKE_TIME = histogram(
  'tls_handshake_duration_seconds',
  'Time that a TLS handshake took.',
  [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
);
// Up to the five minutes that a client waits for a greeting (RFC 5321, section 4.5.3.2.1).
const GREETING_TIME = histogram(
  'greeting_delay_seconds',
  'Time from a connection to its greeting.',
  [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300],
);

const FAMILIES: readonly Family[] = [
  STARTED,
  ACCEPTED,
  REFUSED,
  OPEN,
  WAITING,
  SESSIONS,
  HANDSHAKES,
  FAILURES,
  EXITS,
  RECEIVED,
  SENT,
  SESSION_TIME,
  HANDSHAKE_TIME,
  GREETING_TIME,
];

function counter(name: string, help: string, labels: readonly string[] = []): Family {
  const most = labels.length === 0 ? 1 : MAX_REASONS;
  return { name, help, kind: 'counter', labels, most, bounds: [], merge: add };
}

function gauge(name: string, help: string): Family {
  return { name, help, kind: 'gauge', labels: [], most: 1, bounds: [], merge: add };
}

function histogram(name: string, help: string, bounds: readonly number[]): Family {
  return { name, help, kind: 'histogram', labels: [], most: 1, bounds, merge: add };
}

function add(one: number, other: number): number {
  return one + other;
}

/** A series that is counted in. */
interface Row {
  readonly labels: readonly string[];
  readonly numbers: number[];
}

/** The rows of a family, by their label values as JSON. */
type Rows = Map<string, Row>;

/**
 * Begins to count. All is 0, and all series that are known beforehand are there, so that a rate can be
 * computed from their first event on.
 *
 * @param startTime when the process was started, in seconds since 1970.
 */
export function createMetrics(startTime: number = performance.timeOrigin / 1000): Metrics {
  const store = createStore();
  const row = (family: Family, ...labels: string[]): Row => rowOf(store, family, labels);
  // Found once: these are counted in more often than others.
  const bytesIn = row(RECEIVED);
  const bytesOut = row(SENT);
  for (const reason of REFUSALS) row(REFUSED, reason);
  for (const verdict of VERDICTS) row(SESSIONS, verdict);
  row(EXITS, '0');
  set(row(STARTED), startTime);

  return {
    connectionAccepted: () => increase(row(ACCEPTED)),
    connectionRefused: (reason) => increase(row(REFUSED, reason)),
    setOpen: (count) => set(row(OPEN), count),
    setWaiting: (count) => set(row(WAITING), count),
    verdictReached: (verdict) => increase(row(SESSIONS, verdict)),
    sessionEnded: (seconds) => observe(row(SESSION_TIME), SESSION_TIME.bounds, seconds),
    handshakeDone: ({ protocol = 'unknown', cipher = 'unknown', resumed, seconds }) => {
      increase(row(HANDSHAKES, protocol, cipher, resumed ? 'yes' : 'no'));
      observe(row(HANDSHAKE_TIME), HANDSHAKE_TIME.bounds, seconds);
    },
    handshakeFailed: (reason) => increase(row(FAILURES, reason)),
    smtpdEnded: (status) => increase(row(EXITS, String(status))),
    received: (octets) => increase(bytesIn, octets),
    sent: (octets) => increase(bytesOut, octets),
    greeted: (seconds) => observe(row(GREETING_TIME), GREETING_TIME.bounds, seconds),
    snapshot: () => snapshotOf(store),
  };
}

type Store = ReadonlyMap<Family, Rows>;

/** Families without labels have their one series from the beginning. */
function createStore(): Store {
  const store = new Map<Family, Rows>(FAMILIES.map((family) => [family, new Map()]));
  for (const family of FAMILIES) if (family.labels.length === 0) rowOf(store, family, []);
  return store;
}

/** The series for these label values: a new one while the family has room, else that of "other". */
function rowOf(store: Store, family: Family, values: readonly string[]): Row {
  const rows: Rows = store.get(family) ?? new Map();
  const labels = values.map((value) => (value.length > MAX_LABEL ? value.slice(0, MAX_LABEL) : value));
  const key = JSON.stringify(labels);
  const known = rows.get(key);
  if (known !== undefined) return known;

  const rest = family.labels.map(() => OTHER);
  const restKey = JSON.stringify(rest);
  const counted = rows.size - (rows.has(restKey) ? 1 : 0);
  if (counted >= family.most && key !== restKey) return rowOf(store, family, rest);

  const row: Row = { labels, numbers: new Array<number>(numbersOf(family)).fill(0) };
  rows.set(key, row);
  return row;
}

function numbersOf(family: Family): number {
  return family.kind === 'histogram' ? family.bounds.length + 2 : 1;
}

function set(row: Row, value: number): void {
  row.numbers[0] = value;
}

/** Counters never go down, and nothing that is no number gets in: it would never leave again. */
function increase(row: Row, amount = 1, index = 0): void {
  if (amount > 0 && amount < Number.POSITIVE_INFINITY)
    row.numbers[index] = (row.numbers[index] ?? 0) + amount;
}

function observe(row: Row, bounds: readonly number[], value: number): void {
  let bucket = 0;
  while (bucket < bounds.length && value > (bounds[bucket] ?? 0)) bucket += 1;
  increase(row, 1, bucket);
  increase(row, value, bounds.length + 1);
}

function snapshotOf(store: Store): MetricsSnapshot {
  const snapshot: Record<string, Series[]> = {};
  for (const [family, rows] of store) {
    snapshot[family.name] = [...rows.values()].map(({ labels, numbers }) => ({
      labels,
      numbers: [...numbers],
    }));
  }
  return snapshot;
}

/**
 * One snapshot of several processes: counters, buckets and gauges are added; the start is the earliest. The
 * bounds of the families hold for the result too, so give the snapshots in the same order each time.
 */
export function mergeSnapshots(snapshots: readonly MetricsSnapshot[]): MetricsSnapshot {
  const store = createStore();
  for (const snapshot of snapshots) {
    for (const family of FAMILIES) {
      for (const { labels, numbers } of snapshot[family.name] ?? []) {
        const merged = rowOf(store, family, labels).numbers;
        for (let index = 0; index < merged.length; index++) {
          merged[index] = family.merge(merged[index] ?? 0, numbers[index] ?? 0);
        }
      }
    }
  }
  return snapshotOf(store);
}

/**
 * What is to be kept of a process that has ended: all but its gauges. Without it the counters of the whole
 * would go down with each worker that ends.
 */
export function lastingPart(snapshot: MetricsSnapshot): MetricsSnapshot {
  const lasting: Record<string, readonly Series[]> = {};
  for (const { name, kind } of FAMILIES) if (kind !== 'gauge') lasting[name] = snapshot[name] ?? [];
  return lasting;
}

/** Whether a message of another process is a snapshot. Families that are not known do no harm. */
export function isSnapshot(value: unknown): value is MetricsSnapshot {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  return Object.values(value).every((list: unknown) => Array.isArray(list) && list.every(isSeries));
}

function isSeries(value: unknown): value is Series {
  if (typeof value !== 'object' || value === null || !('labels' in value) || !('numbers' in value))
    return false;
  const { labels, numbers } = value;
  if (!Array.isArray(labels) || !Array.isArray(numbers)) return false;
  return (
    labels.every((label) => typeof label === 'string') && numbers.every((number) => Number.isFinite(number))
  );
}

/** A snapshot in the text format of Prometheus, version 0.0.4. */
export function formatPrometheus(snapshot: MetricsSnapshot): string {
  let text = '';
  for (const family of FAMILIES) {
    const name = PREFIX + family.name;
    text += `# HELP ${name} ${family.help}\n# TYPE ${name} ${family.kind}\n`;
    for (const series of snapshot[family.name] ?? []) text += formatSeries(name, family, series);
  }
  return text;
}

function formatSeries(name: string, { kind, bounds, labels }: Family, series: Series): string {
  const pairs = labels.map((label, index) => formatLabel(label, series.labels[index] ?? ''));
  if (kind !== 'histogram') return formatSample(name, pairs, series.numbers[0] ?? 0);
  let text = '';
  let count = 0;
  for (const [index, bound] of [...bounds, '+Inf'].entries()) {
    count += series.numbers[index] ?? 0;
    text += formatSample(`${name}_bucket`, [...pairs, formatLabel('le', String(bound))], count);
  }
  const sum = series.numbers[bounds.length + 1] ?? 0;
  return text + formatSample(`${name}_sum`, pairs, sum) + formatSample(`${name}_count`, pairs, count);
}

function formatSample(name: string, pairs: readonly string[], value: number): string {
  return `${name}${pairs.length === 0 ? '' : `{${pairs.join(',')}}`} ${value}\n`;
}

function formatLabel(name: string, value: string): string {
  const escaped = value.replace(/[\\"\n]/g, (char) => (char === '\n' ? '\\n' : `\\${char}`));
  return `${name}="${escaped}"`;
}

/** A snapshot as the fields of one line of the log; of most families with labels, the sum of their series. */
export function formatLine(snapshot: MetricsSnapshot): Record<string, number> {
  const total = (family: Family, ...labels: (string | undefined)[]): number => {
    const series = snapshot[family.name] ?? [];
    const wanted = series.filter((one) =>
      labels.every((label, index) => label === undefined || one.labels[index] === label),
    );
    return wanted.reduce((sum, one) => sum + (one.numbers[0] ?? 0), 0);
  };
  const exits = total(EXITS);
  return {
    accepted: total(ACCEPTED),
    refused: total(REFUSED),
    open: total(OPEN),
    waiting: total(WAITING),
    plaintext: total(SESSIONS, 'plaintext'),
    tls: total(SESSIONS, 'tls'),
    close: total(SESSIONS, 'close'),
    handshakes: total(HANDSHAKES),
    resumed: total(HANDSHAKES, undefined, undefined, 'yes'),
    handshake_failures: total(FAILURES),
    smtpd_exits: exits,
    smtpd_failures: exits - total(EXITS, '0'),
    received_bytes: total(RECEIVED),
    sent_bytes: total(SENT),
  };
}
