/**
 * What a resident server counts.
 *
 * Everything counted belongs to a *family* (a metric of Prometheus), and a family has a *series* for each
 * set of label values: one of `connections_refused_total` for each reason, say.
 */

import type { Verdict } from '../../smtp/dialogue.ts';

/** How the dialogue of a session may end. */
export const VERDICTS: readonly Verdict[] = ['plaintext', 'tls', 'close'];

/** Something that is counted. */
export interface Family {
  /** Without the prefix that all names have. */
  readonly name: string;
  readonly help: string;
  readonly kind: 'counter' | 'gauge' | 'histogram';
  readonly labels: readonly string[];
  /** The upper bounds of the buckets of a histogram, without that of infinity. */
  readonly bounds: readonly number[];
  /** Makes one number of those of two processes. */
  readonly merge: (one: number, other: number) => number;
}

/** All families, in the order in which they are told. */
export const FAMILIES = {
  started: {
    ...gauge('start_time_seconds', 'When the server was started, in seconds since 1970.'),
    // The first of the processes began before it started the others. 0 is what a new series has.
    merge: (one, other) => (one === 0 || other === 0 ? one + other : Math.min(one, other)),
  },
  accepted: counter('connections_accepted_total', 'Connections that were accepted.'),
  refused: counter(
    'connections_refused_total',
    'Connections closed before there was a session, by reason.',
    'reason',
  ),
  open: gauge('connections_open', 'Connections that are open now, waiting ones too.'),
  waiting: gauge('connections_waiting', 'Connections that wait for their turn now.'),
  sessions: counter('sessions_total', 'Sessions by what their dialogue ended in.', 'verdict'),
  errorLimit: counter(
    'error_limit_reached_total',
    'Sessions closed because too many commands were refused before MAIL.',
  ),
  handshakes: counter(
    'tls_handshakes_total',
    'TLS handshakes that went well.',
    'protocol',
    'cipher',
    'resumed',
  ),
  handshakeFailures: counter(
    'tls_handshake_failures_total',
    'TLS handshakes that failed, by reason.',
    'reason',
  ),
  exits: counter('smtpd_exits_total', 'smtpd processes that ended, by exit status.', 'status'),
  received: counter('received_bytes_total', 'Bytes received from clients, on the wire.'),
  sent: counter('sent_bytes_total', 'Bytes sent to clients, on the wire.'),
  sessionTime: histogram(
    'session_duration_seconds',
    'Time from a connection to its end.',
    [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800],
  ),
  handshakeTime: histogram(
    'tls_handshake_duration_seconds',
    'Time that a TLS handshake took.',
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
  ),
  // Up to the five minutes that a client waits for a greeting (RFC 5321, section 4.5.3.2.1).
  greetingTime: histogram(
    'greeting_delay_seconds',
    'Time from a connection to its greeting.',
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300],
  ),
} as const satisfies Record<string, Family>;

/** The same, one after the other. */
export const ALL_FAMILIES: readonly Family[] = Object.values(FAMILIES);

function counter(name: string, help: string, ...labels: readonly string[]): Family {
  return { name, help, kind: 'counter', labels, bounds: [], merge: add };
}

function gauge(name: string, help: string): Family {
  return { name, help, kind: 'gauge', labels: [], bounds: [], merge: add };
}

function histogram(name: string, help: string, bounds: readonly number[]): Family {
  return { name, help, kind: 'histogram', labels: [], bounds, merge: add };
}

function add(one: number, other: number): number {
  return one + other;
}
