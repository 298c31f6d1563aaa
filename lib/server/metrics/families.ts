/**
 * The metrics of a resident server.
 *
 * A *family* is a metric of Prometheus. It has a *series* for each set of label values: `connections_refused_total` has
 * one for each reason, for example.
 */

import type { Verdict } from '../../smtp/dialogue.ts';
import { REACH_RESULTS } from '../../smtpd/relay/failure.ts';

/** The verdicts that a dialogue can reach. */
export const VERDICTS: readonly Verdict[] = ['plaintext', 'tls', 'close'];

/** A metric and how it is kept. */
export interface Family {
  /** Without the prefix that all names share. */
  readonly name: string;
  readonly help: string;
  readonly kind: 'counter' | 'gauge' | 'histogram';
  readonly labels: readonly string[];
  /** How many series there may be, without "other". */
  readonly maxSeries: number;
  /** The upper bounds of the buckets of a histogram, without +Inf. */
  readonly bounds: readonly number[];
  /** Merges the numbers of two processes. */
  readonly merge: (one: number, other: number) => number;
}

/** How many series a family may have whose label values come from outside. */
const MAX_SERIES = 32;

/** How many URLs have series of their own. */
const MAX_URLS = 24;

/** All families, in the order of the output. */
export const FAMILIES = {
  started: {
    ...gauge('start_time_seconds', 'Start time of the server, in seconds since the Unix epoch.'),
    // The primary started before its workers. 0 is the value of a new series.
    merge: (one, other) => (one === 0 || other === 0 ? one + other : Math.min(one, other)),
  },
  accepted: counter('connections_accepted_total', 'Connections accepted.'),
  refused: counter(
    'connections_refused_total',
    'Connections closed before a session began, by reason.',
    'reason',
  ),
  open: gauge('connections_open', 'Connections currently open, including those waiting.'),
  waiting: gauge('connections_waiting', 'Connections currently waiting for a slot.'),
  connectionsLimit: gauge(
    'connections_limit',
    'Connections that may be served at once: -c, or what the descriptor limit allows.',
  ),
  sessions: counter('sessions_total', 'Sessions by verdict of the dialogue.', 'verdict'),
  errorLimit: counter(
    'error_limit_reached_total',
    'Sessions closed because too many commands were refused before MAIL.',
  ),
  earlyTalkers: counter('early_talkers_total', 'Clients that sent data before the greeting (--greet-delay).'),
  handshakes: counter('tls_handshakes_total', 'Successful TLS handshakes.', 'protocol', 'cipher', 'resumed'),
  handshakeFailures: counter('tls_handshake_failures_total', 'Failed TLS handshakes, by reason.', 'reason'),
  certificateExpiry: gauge(
    'certificate_not_after_timestamp_seconds',
    'When the first certificate of a file expires, in seconds since the Unix epoch, by server name.',
    'name',
    'file',
  ),
  certificateLoaded: gauge(
    'certificate_loaded_timestamp_seconds',
    'When keys and certificates were last read successfully, in seconds since the Unix epoch.',
  ),
  reloadSuccessful: gauge(
    'certificate_last_reload_successful',
    '1 if keys and certificates were valid when they were last read, else 0.',
  ),
  reloadFailures: counter(
    'certificate_reload_failures_total',
    'Failed attempts to read keys and certificates again.',
  ),
  exits: counter('smtpd_exits_total', 'smtpd processes that exited, by exit status.', 'status'),
  smtpdsRunning: gauge('smtpd_running', 'smtpds currently running.'),
  smtpdsStarted: counter('smtpd_started_total', 'smtpds started.'),
  withoutSmtpd: counter(
    'sessions_without_smtpd_total',
    'Sessions that ended without having needed an smtpd (--on-demand, --greet-delay).',
  ),
  relayAttempts: {
    ...counter(
      'relay_attempts_total',
      'Attempts to reach a server that a URL names, by result.',
      'url',
      'result',
    ),
    // URLs are the administrator's, not a client's.
    maxSeries: MAX_URLS * REACH_RESULTS.length,
  },
  received: counter('received_bytes_total', 'Bytes received from clients, on the wire.'),
  sent: counter('sent_bytes_total', 'Bytes sent to clients, on the wire.'),
  sessionTime: histogram(
    'session_duration_seconds',
    'Time from connection to end of session.',
    [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800],
  ),
  handshakeTime: histogram(
    'tls_handshake_duration_seconds',
    'Duration of TLS handshakes.',
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
  ),
  // Up to the five minutes that a client waits for a greeting (RFC 5321, section 4.5.3.2.1).
  greetingTime: histogram(
    'greeting_delay_seconds',
    'Time from connection to greeting.',
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300],
  ),
} as const satisfies Record<string, Family>;

/** All families as a list. */
export const ALL_FAMILIES: readonly Family[] = Object.values(FAMILIES);

function counter(name: string, help: string, ...labels: readonly string[]): Family {
  return { name, help, kind: 'counter', labels, maxSeries: MAX_SERIES, bounds: [], merge: add };
}

function gauge(name: string, help: string, ...labels: readonly string[]): Family {
  return { name, help, kind: 'gauge', labels, maxSeries: MAX_SERIES, bounds: [], merge: add };
}

function histogram(name: string, help: string, bounds: readonly number[]): Family {
  return { name, help, kind: 'histogram', labels: [], maxSeries: MAX_SERIES, bounds, merge: add };
}

function add(one: number, other: number): number {
  return one + other;
}
