/** The metrics of the server and their output: lib/server/metrics/. */

import assert from 'node:assert/strict';
import { subscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { request } from 'node:http';
import { connect, Socket } from 'node:net';
import { describe, it } from 'node:test';
import { formatLine, formatPrometheus } from '../../lib/server/metrics/format.ts';
import { type MetricsServer, serveMetrics } from '../../lib/server/metrics/http.ts';
import { createMetrics } from '../../lib/server/metrics/metrics.ts';
import {
  isSnapshot,
  lastingPart,
  type MetricsSnapshot,
  mergeSnapshots,
} from '../../lib/server/metrics/snapshot.ts';
import { REACH_RESULTS } from '../../lib/smtpd/relay/failure.ts';

/** The samples of a family: the lines of the text that begin with its name, without the prefix. */
function samples(snapshot: MetricsSnapshot, name: string): string[] {
  const lines = formatPrometheus(snapshot).split('\n');
  return lines.filter((line) => line.startsWith(`smtpd_starttls_${name}`)).map((line) => line.slice(15));
}

/** What the other end of a channel between processes receives. */
function sent(snapshot: MetricsSnapshot): unknown {
  return JSON.parse(JSON.stringify(snapshot));
}

describe('formatPrometheus', () => {
  it('formats a small snapshot', () => {
    const metrics = createMetrics(1_700_000_000.25);
    metrics.connectionAccepted();
    metrics.connectionAccepted();
    metrics.connectionRefused('per-address');
    metrics.setOpen(2);
    metrics.setOpen(1);
    metrics.verdictReached('tls');
    metrics.errorLimitReached();
    metrics.earlyTalker();
    metrics.handshakeDone({
      protocol: 'TLSv1.3',
      cipher: 'TLS_AES_128_GCM_SHA256',
      resumed: false,
      seconds: 0.004,
    });
    metrics.handshakeFailed('ECONNRESET');
    metrics.smtpdEnded(0);
    metrics.smtpdEnded(111);
    for (let count = 0; count < 3; count++) metrics.smtpdStarted();
    metrics.smtpdStopped();
    metrics.sessionWithoutSmtpd();
    for (const result of ['reached', 'reached', 'not-verified'] as const) {
      metrics.relayAttempted('tls://mail.example', result);
    }
    metrics.received(1000);
    metrics.received(23);
    metrics.sent(4096);
    metrics.greeted(0.25);
    metrics.sessionEnded(7.5);
    assert.equal(
      formatPrometheus(metrics.snapshot()),
      `# HELP smtpd_starttls_start_time_seconds Start time of the server, in seconds since the Unix epoch.
# TYPE smtpd_starttls_start_time_seconds gauge
smtpd_starttls_start_time_seconds 1700000000.25
# HELP smtpd_starttls_connections_accepted_total Connections accepted.
# TYPE smtpd_starttls_connections_accepted_total counter
smtpd_starttls_connections_accepted_total 2
# HELP smtpd_starttls_connections_refused_total Connections closed before a session began, by reason.
# TYPE smtpd_starttls_connections_refused_total counter
smtpd_starttls_connections_refused_total{reason="per-address"} 1
smtpd_starttls_connections_refused_total{reason="no-room"} 0
smtpd_starttls_connections_refused_total{reason="wait-timeout"} 0
smtpd_starttls_connections_refused_total{reason="proxy-header"} 0
smtpd_starttls_connections_refused_total{reason="untrusted"} 0
smtpd_starttls_connections_refused_total{reason="stopping"} 0
# HELP smtpd_starttls_connections_open Connections currently open, including those waiting.
# TYPE smtpd_starttls_connections_open gauge
smtpd_starttls_connections_open 1
# HELP smtpd_starttls_connections_waiting Connections currently waiting for a slot.
# TYPE smtpd_starttls_connections_waiting gauge
smtpd_starttls_connections_waiting 0
# HELP smtpd_starttls_connections_limit Connections that may be served at once: -c, or what the descriptor limit allows.
# TYPE smtpd_starttls_connections_limit gauge
smtpd_starttls_connections_limit 0
# HELP smtpd_starttls_sessions_total Sessions by verdict of the dialogue.
# TYPE smtpd_starttls_sessions_total counter
smtpd_starttls_sessions_total{verdict="plaintext"} 0
smtpd_starttls_sessions_total{verdict="tls"} 1
smtpd_starttls_sessions_total{verdict="close"} 0
# HELP smtpd_starttls_error_limit_reached_total Sessions closed because too many commands were refused before MAIL.
# TYPE smtpd_starttls_error_limit_reached_total counter
smtpd_starttls_error_limit_reached_total 1
# HELP smtpd_starttls_early_talkers_total Clients that sent data before the greeting (--greet-delay).
# TYPE smtpd_starttls_early_talkers_total counter
smtpd_starttls_early_talkers_total 1
# HELP smtpd_starttls_tls_handshakes_total Successful TLS handshakes.
# TYPE smtpd_starttls_tls_handshakes_total counter
smtpd_starttls_tls_handshakes_total{protocol="TLSv1.3",cipher="TLS_AES_128_GCM_SHA256",resumed="no"} 1
# HELP smtpd_starttls_tls_handshake_failures_total Failed TLS handshakes, by reason.
# TYPE smtpd_starttls_tls_handshake_failures_total counter
smtpd_starttls_tls_handshake_failures_total{reason="ECONNRESET"} 1
# HELP smtpd_starttls_certificate_not_after_timestamp_seconds When the first certificate of a file expires, in seconds since the Unix epoch, by server name.
# TYPE smtpd_starttls_certificate_not_after_timestamp_seconds gauge
# HELP smtpd_starttls_certificate_loaded_timestamp_seconds When keys and certificates were last read successfully, in seconds since the Unix epoch.
# TYPE smtpd_starttls_certificate_loaded_timestamp_seconds gauge
smtpd_starttls_certificate_loaded_timestamp_seconds 0
# HELP smtpd_starttls_certificate_last_reload_successful 1 if keys and certificates were valid when they were last read, else 0.
# TYPE smtpd_starttls_certificate_last_reload_successful gauge
smtpd_starttls_certificate_last_reload_successful 0
# HELP smtpd_starttls_certificate_reload_failures_total Failed attempts to read keys and certificates again.
# TYPE smtpd_starttls_certificate_reload_failures_total counter
smtpd_starttls_certificate_reload_failures_total 0
# HELP smtpd_starttls_smtpd_exits_total smtpd processes that exited, by exit status.
# TYPE smtpd_starttls_smtpd_exits_total counter
smtpd_starttls_smtpd_exits_total{status="0"} 1
smtpd_starttls_smtpd_exits_total{status="111"} 1
# HELP smtpd_starttls_smtpd_running smtpds currently running.
# TYPE smtpd_starttls_smtpd_running gauge
smtpd_starttls_smtpd_running 2
# HELP smtpd_starttls_smtpd_started_total smtpds started.
# TYPE smtpd_starttls_smtpd_started_total counter
smtpd_starttls_smtpd_started_total 3
# HELP smtpd_starttls_sessions_without_smtpd_total Sessions that ended without having needed an smtpd (--on-demand, --greet-delay).
# TYPE smtpd_starttls_sessions_without_smtpd_total counter
smtpd_starttls_sessions_without_smtpd_total 1
# HELP smtpd_starttls_relay_attempts_total Attempts to reach a server that a URL names, by result.
# TYPE smtpd_starttls_relay_attempts_total counter
smtpd_starttls_relay_attempts_total{url="tls://mail.example",result="reached"} 2
smtpd_starttls_relay_attempts_total{url="tls://mail.example",result="not-verified"} 1
# HELP smtpd_starttls_received_bytes_total Bytes received from clients, on the wire.
# TYPE smtpd_starttls_received_bytes_total counter
smtpd_starttls_received_bytes_total 1023
# HELP smtpd_starttls_sent_bytes_total Bytes sent to clients, on the wire.
# TYPE smtpd_starttls_sent_bytes_total counter
smtpd_starttls_sent_bytes_total 4096
# HELP smtpd_starttls_session_duration_seconds Time from connection to end of session.
# TYPE smtpd_starttls_session_duration_seconds histogram
smtpd_starttls_session_duration_seconds_bucket{le="0.05"} 0
smtpd_starttls_session_duration_seconds_bucket{le="0.1"} 0
smtpd_starttls_session_duration_seconds_bucket{le="0.25"} 0
smtpd_starttls_session_duration_seconds_bucket{le="0.5"} 0
smtpd_starttls_session_duration_seconds_bucket{le="1"} 0
smtpd_starttls_session_duration_seconds_bucket{le="2.5"} 0
smtpd_starttls_session_duration_seconds_bucket{le="5"} 0
smtpd_starttls_session_duration_seconds_bucket{le="10"} 1
smtpd_starttls_session_duration_seconds_bucket{le="30"} 1
smtpd_starttls_session_duration_seconds_bucket{le="60"} 1
smtpd_starttls_session_duration_seconds_bucket{le="300"} 1
smtpd_starttls_session_duration_seconds_bucket{le="1800"} 1
smtpd_starttls_session_duration_seconds_bucket{le="+Inf"} 1
smtpd_starttls_session_duration_seconds_sum 7.5
smtpd_starttls_session_duration_seconds_count 1
# HELP smtpd_starttls_tls_handshake_duration_seconds Duration of TLS handshakes.
# TYPE smtpd_starttls_tls_handshake_duration_seconds histogram
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="0.001"} 0
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="0.0025"} 0
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="0.005"} 1
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="0.01"} 1
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="0.025"} 1
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="0.05"} 1
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="0.1"} 1
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="0.25"} 1
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="0.5"} 1
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="1"} 1
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="2.5"} 1
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="5"} 1
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="10"} 1
smtpd_starttls_tls_handshake_duration_seconds_bucket{le="+Inf"} 1
smtpd_starttls_tls_handshake_duration_seconds_sum 0.004
smtpd_starttls_tls_handshake_duration_seconds_count 1
# HELP smtpd_starttls_greeting_delay_seconds Time from connection to greeting.
# TYPE smtpd_starttls_greeting_delay_seconds histogram
smtpd_starttls_greeting_delay_seconds_bucket{le="0.005"} 0
smtpd_starttls_greeting_delay_seconds_bucket{le="0.01"} 0
smtpd_starttls_greeting_delay_seconds_bucket{le="0.025"} 0
smtpd_starttls_greeting_delay_seconds_bucket{le="0.05"} 0
smtpd_starttls_greeting_delay_seconds_bucket{le="0.1"} 0
smtpd_starttls_greeting_delay_seconds_bucket{le="0.25"} 1
smtpd_starttls_greeting_delay_seconds_bucket{le="0.5"} 1
smtpd_starttls_greeting_delay_seconds_bucket{le="1"} 1
smtpd_starttls_greeting_delay_seconds_bucket{le="2.5"} 1
smtpd_starttls_greeting_delay_seconds_bucket{le="5"} 1
smtpd_starttls_greeting_delay_seconds_bucket{le="10"} 1
smtpd_starttls_greeting_delay_seconds_bucket{le="30"} 1
smtpd_starttls_greeting_delay_seconds_bucket{le="60"} 1
smtpd_starttls_greeting_delay_seconds_bucket{le="300"} 1
smtpd_starttls_greeting_delay_seconds_bucket{le="+Inf"} 1
smtpd_starttls_greeting_delay_seconds_sum 0.25
smtpd_starttls_greeting_delay_seconds_count 1
`,
    );
  });

  it('escapes label values', () => {
    const metrics = createMetrics();
    metrics.handshakeFailed('a "b" \\n c\\\nd');
    assert.deepEqual(samples(metrics.snapshot(), 'tls_handshake_failures_total'), [
      String.raw`tls_handshake_failures_total{reason="a \"b\" \\n c\\\nd"} 1`,
    ]);
  });

  it('prints no series for a family that is missing', () => {
    assert.deepEqual(samples({}, ''), []);
    assert.match(formatPrometheus({}), /^# TYPE smtpd_starttls_connections_open gauge$/m);
  });
});

describe('a histogram', () => {
  it('has cumulative buckets with inclusive bounds', () => {
    const metrics = createMetrics();
    for (const seconds of [0, 0.001, 0.002, 0.25, 0.75, 10, 10.5, 99]) {
      metrics.handshakeDone({ protocol: 'TLSv1.3', cipher: 'c', resumed: false, seconds });
    }
    const buckets = samples(metrics.snapshot(), 'tls_handshake_duration_seconds');
    assert.deepEqual(
      buckets.map((line) => line.replace(/.*_(bucket\{le="(.*)"\}|sum|count)/, '$2')),
      [
        ['0.001 2', '0.0025 3', '0.005 3', '0.01 3', '0.025 3', '0.05 3', '0.1 3', '0.25 4', '0.5 4', '1 5'],
        ['2.5 5', '5 5', '10 6', '+Inf 8', ' 120.503', ' 8'],
      ].flat(),
    );
  });
});

describe('counting', () => {
  it('includes the start time of the process', () => {
    const start = Number(samples(createMetrics().snapshot(), 'start_time_seconds')[0]?.split(' ')[1]);
    assert.equal(start, performance.timeOrigin / 1000);
  });

  it('does not change an earlier snapshot', () => {
    const metrics = createMetrics();
    metrics.handshakeFailed('one');
    const before = metrics.snapshot();
    const text = formatPrometheus(before);
    metrics.handshakeFailed('one');
    metrics.handshakeFailed('two');
    metrics.connectionAccepted();
    assert.equal(formatPrometheus(before), text);
    assert.notEqual(formatPrometheus(metrics.snapshot()), text);
  });

  it('counts handshakes by protocol, cipher and resumption', () => {
    const metrics = createMetrics();
    const one = { protocol: 'TLSv1.3', cipher: 'A', resumed: false, seconds: 1 };
    for (const other of [{}, {}, { resumed: true }, { cipher: 'B' }, { protocol: 'TLSv1.2' }]) {
      metrics.handshakeDone({ ...one, ...other });
    }
    metrics.handshakeDone({ ...one, protocol: undefined, cipher: undefined });
    assert.deepEqual(samples(metrics.snapshot(), 'tls_handshakes_total'), [
      'tls_handshakes_total{protocol="TLSv1.3",cipher="A",resumed="no"} 2',
      'tls_handshakes_total{protocol="TLSv1.3",cipher="A",resumed="yes"} 1',
      'tls_handshakes_total{protocol="TLSv1.3",cipher="B",resumed="no"} 1',
      'tls_handshakes_total{protocol="TLSv1.2",cipher="A",resumed="no"} 1',
      'tls_handshakes_total{protocol="unknown",cipher="unknown",resumed="no"} 1',
    ]);
  });

  it('ignores amounts that would corrupt a counter', () => {
    const metrics = createMetrics();
    for (const amount of [Number.NaN, Number.POSITIVE_INFINITY, -5, 7]) {
      metrics.received(amount);
      metrics.sessionEnded(amount);
    }
    assert.deepEqual(samples(metrics.snapshot(), 'received_bytes_total'), ['received_bytes_total 7']);
    assert.deepEqual(samples(metrics.snapshot(), 'session_duration_seconds_sum'), [
      'session_duration_seconds_sum 7',
    ]);
  });
});

describe('the bounds of a family', () => {
  function failWith(reasons: readonly string[]): MetricsSnapshot {
    const metrics = createMetrics();
    for (const reason of reasons) metrics.handshakeFailed(reason);
    return metrics.snapshot();
  }

  function failures(snapshot: MetricsSnapshot): Map<string, number> {
    const series = snapshot.tls_handshake_failures_total ?? [];
    return new Map(series.map(({ labels, numbers }) => [labels[0] ?? '', numbers[0] ?? 0]));
  }

  const names = (from: number, to: number): string[] =>
    Array.from({ length: to - from }, (_, index) => `reason ${from + index}`);

  it('are 32 reasons, then "other"', () => {
    const found = failures(failWith([...names(0, 32), ...names(30, 1000), 'reason 5']));
    assert.deepEqual([...found.keys()], [...names(0, 32), 'other']);
    assert.equal(found.get('reason 4'), 1);
    assert.equal(found.get('reason 5'), 2);
    assert.equal(found.get('reason 31'), 2);
    assert.equal(found.get('other'), 968);
  });

  it('count a reason "other" separately', () => {
    assert.deepEqual([...failures(failWith(['other', ...names(0, 32)])).keys()], ['other', ...names(0, 32)]);
  });

  it('apply to the length of a reason', () => {
    const found = failures(failWith(['x'.repeat(65), 'x'.repeat(100_000), 'x'.repeat(64)]));
    assert.deepEqual([...found], [['x'.repeat(64), 3]]);
  });

  it('apply to ciphers and to exit statuses', () => {
    const metrics = createMetrics();
    for (let number = 0; number < 1000; number++) {
      metrics.handshakeDone({ protocol: 'p', cipher: `c${number}`, resumed: true, seconds: 0 });
      metrics.smtpdEnded(number);
    }
    const handshakes = samples(metrics.snapshot(), 'tls_handshakes_total');
    assert.equal(handshakes.length, 33);
    assert.equal(handshakes[32], 'tls_handshakes_total{protocol="other",cipher="other",resumed="other"} 968');
    const exits = samples(metrics.snapshot(), 'smtpd_exits_total');
    assert.equal(exits.length, 33);
    assert.equal(exits[32], 'smtpd_exits_total{status="other"} 968');
  });

  it('are wide enough for all results of 24 URLs', () => {
    const metrics = createMetrics();
    for (let number = 0; number < 25; number++) metrics.relayExpected(`tls://${number}.example`);
    metrics.relayAttempted('tls://23.example', 'aborted');
    metrics.relayAttempted('tls://24.example', 'reached');
    const attempts = samples(metrics.snapshot(), 'relay_attempts_total');
    assert.equal(attempts.length, 24 * REACH_RESULTS.length + 1);
    assert.deepEqual(attempts.slice(-2), [
      'relay_attempts_total{url="tls://23.example",result="aborted"} 1',
      'relay_attempts_total{url="other",result="other"} 1',
    ]);
  });

  it('apply to merged snapshots, without losing counts', () => {
    const found = failures(mergeSnapshots([failWith(names(0, 40)), failWith(names(20, 60))]));
    assert.deepEqual([...found.keys()], [...names(0, 32), 'other']);
    assert.equal(found.get('reason 25'), 2);
    assert.equal(
      [...found.values()].reduce((sum, count) => sum + count),
      80,
    );
  });
});

describe('mergeSnapshots', () => {
  function worker(startTime: number, accepted: number): MetricsSnapshot {
    const metrics = createMetrics(startTime);
    for (let count = 0; count < accepted; count++) metrics.connectionAccepted();
    metrics.setOpen(accepted);
    metrics.verdictReached('plaintext');
    metrics.greeted(accepted);
    metrics.handshakeFailed(`reason of ${accepted}`);
    metrics.handshakeFailed('reason of all');
    return metrics.snapshot();
  }

  it('adds counters, gauges and buckets, and keeps the earliest start time', () => {
    const merged = mergeSnapshots([worker(300, 1), worker(100, 2), worker(200, 4)]);
    assert.deepEqual(samples(merged, 'start'), ['start_time_seconds 100']);
    assert.deepEqual(samples(merged, 'connections_accepted'), ['connections_accepted_total 7']);
    assert.deepEqual(samples(merged, 'connections_open'), ['connections_open 7']);
    assert.equal(samples(merged, 'sessions')[0], 'sessions_total{verdict="plaintext"} 3');
    assert.deepEqual(samples(merged, 'greeting').slice(7), [
      'greeting_delay_seconds_bucket{le="1"} 1',
      'greeting_delay_seconds_bucket{le="2.5"} 2',
      'greeting_delay_seconds_bucket{le="5"} 3',
      'greeting_delay_seconds_bucket{le="10"} 3',
      'greeting_delay_seconds_bucket{le="30"} 3',
      'greeting_delay_seconds_bucket{le="60"} 3',
      'greeting_delay_seconds_bucket{le="300"} 3',
      'greeting_delay_seconds_bucket{le="+Inf"} 3',
      'greeting_delay_seconds_sum 7',
      'greeting_delay_seconds_count 3',
    ]);
    assert.deepEqual(samples(merged, 'tls_handshake_failures'), [
      'tls_handshake_failures_total{reason="reason of 1"} 1',
      'tls_handshake_failures_total{reason="reason of all"} 3',
      'tls_handshake_failures_total{reason="reason of 2"} 1',
      'tls_handshake_failures_total{reason="reason of 4"} 1',
    ]);
  });

  it('does not change a single snapshot, also after JSON', () => {
    const one = worker(100, 3);
    const other = sent(one);
    assert.ok(isSnapshot(other));
    assert.deepEqual(mergeSnapshots([other]), one);
  });

  it('keeps the counters of a process that has exited, but not its gauges', () => {
    const merged = mergeSnapshots([worker(200, 1), lastingPart(worker(100, 4))]);
    assert.deepEqual(samples(merged, 'start'), ['start_time_seconds 200']);
    assert.deepEqual(samples(merged, 'connections_accepted'), ['connections_accepted_total 5']);
    assert.deepEqual(samples(merged, 'connections_open'), ['connections_open 1']);
    assert.deepEqual(samples(merged, 'greeting').slice(-2), [
      'greeting_delay_seconds_sum 5',
      'greeting_delay_seconds_count 2',
    ]);
  });

  it('gives zeros for no snapshot, and ignores unknown families', () => {
    const merged = mergeSnapshots([{ strange: [{ labels: [], numbers: [1] }] }]);
    assert.deepEqual(merged, mergeSnapshots([]));
    assert.deepEqual(samples(merged, 'connections_accepted'), ['connections_accepted_total 0']);
  });
});

describe('isSnapshot', () => {
  it('accepts a snapshot', () => {
    assert.equal(isSnapshot(createMetrics().snapshot()), true);
    assert.equal(isSnapshot({}), true);
    assert.equal(isSnapshot({ of_a_later_version: 1 }), true);
  });

  const [plain, labelled] = ['connections_accepted_total', 'connections_refused_total'] as const;
  for (const value of [
    null,
    undefined,
    1,
    'text',
    [],
    { [plain]: 1 },
    { [plain]: [1] },
    { [plain]: [null] },
    { [plain]: [{ labels: [] }] },
    { [plain]: [{ numbers: [] }] },
    { [plain]: [{ labels: 'x', numbers: [1] }] },
    { [plain]: [{ labels: ['too many'], numbers: [1] }] },
    { [plain]: [{ labels: [], numbers: 1 }] },
    { [plain]: [{ labels: [], numbers: ['1'] }] },
    { [plain]: [{ labels: [], numbers: [null] }] },
    { [plain]: [{ labels: [], numbers: [Number.NaN] }] },
    { [plain]: [{ labels: [], numbers: [-1] }] },
    { [plain]: [{ labels: [], numbers: [1e300] }] },
    { [labelled]: [{ labels: [], numbers: [1] }] },
    { [labelled]: [{ labels: [1], numbers: [1] }] },
    { [plain]: [{ labels: [], numbers: [1] }], [labelled]: {} },
  ]) {
    it(`rejects ${JSON.stringify(value)}`, () => assert.equal(isSnapshot(value), false));
  }
});

describe('formatLine', () => {
  it('summarizes the counters', () => {
    const metrics = createMetrics();
    for (const reason of ['no-room', 'no-room', 'untrusted'] as const) metrics.connectionRefused(reason);
    for (const verdict of ['tls', 'tls', 'plaintext', 'close'] as const) metrics.verdictReached(verdict);
    for (const resumed of [true, false, true]) {
      metrics.handshakeDone({ protocol: 'p', cipher: resumed ? 'a' : 'yes', resumed, seconds: 1 });
    }
    for (const status of [0, 0, 1, 111]) metrics.smtpdEnded(status);
    for (let count = 0; count < 7; count++) metrics.smtpdStarted();
    for (let count = 0; count < 4; count++) metrics.smtpdStopped();
    metrics.sessionWithoutSmtpd();
    metrics.handshakeFailed('a');
    metrics.handshakeFailed('b');
    metrics.errorLimitReached();
    metrics.earlyTalker();
    for (const result of ['reached', 'reached', 'refused', 'no-tls', 'no-tls', 'aborted'] as const) {
      metrics.relayAttempted('tls://mail.example', result);
    }
    metrics.connectionAccepted();
    metrics.setOpen(6);
    metrics.setWaiting(5);
    metrics.received(10);
    metrics.sent(20);
    assert.deepEqual(formatLine(metrics.snapshot()), {
      accepted: 1,
      refused: 3,
      open: 6,
      waiting: 5,
      plaintext: 1,
      tls: 2,
      close: 1,
      error_limit_reached: 1,
      early_talkers: 1,
      handshakes: 3,
      resumed: 2,
      handshake_failures: 2,
      smtpd_running: 3,
      smtpd_started: 7,
      without_smtpd: 1,
      smtpd_exits: 4,
      smtpd_failures: 2,
      relay_reached: 2,
      relay_failures: 3,
      received_bytes: 10,
      sent_bytes: 20,
    });
  });

  it('gives zeros for missing families', () => {
    assert.deepEqual(
      Object.values(formatLine({})).filter((value) => value !== 0),
      [],
    );
  });
});

interface Answer {
  readonly status: number | undefined;
  readonly type: string | undefined;
  readonly length: string | undefined;
  readonly allow: string | undefined;
  readonly connection: string | undefined;
  readonly text: string;
}

function ask(port: number, method: string, path: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asking = request({ host: '127.0.0.1', port, method, path, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        text += part;
      });
      response.on('error', reject);
      response.on('end', () => {
        const { headers, statusCode: status } = response;
        const { 'content-type': type, 'content-length': length, allow, connection } = headers;
        resolve({ status, type, length, allow, connection, text });
      });
    });
    asking.on('error', reject);
    asking.end();
  });
}

/** Sends octets unchanged and gives what arrives until the server closes, gracefully or with a reset. */
function converse(port: number, text: string): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(text));
    let got = '';
    socket.on('data', (bytes) => {
      got += bytes;
    });
    socket.on('error', () => {});
    socket.on('close', () => resolve(got));
  });
}

/** Runs a server during a callback, and gives the warnings that it reported. */
async function withServer(
  collect: () => Promise<string>,
  act: (server: MetricsServer, warnings: readonly string[]) => Promise<void>,
): Promise<void> {
  const warnings: string[] = [];
  const server = await serveMetrics('127.0.0.1', 0, collect, { warning: (text) => warnings.push(text) });
  try {
    await act(server, warnings);
  } finally {
    server.close();
  }
}

/** The servers' ends of all connections, in their order. */
const accepted: Socket[] = [];
subscribe('net.server.socket', (message) => {
  if (typeof message !== 'object' || message === null || !('socket' in message)) return;
  if (message.socket instanceof Socket) accepted.push(message.socket);
});

/** Connects, and gives the server's end too. */
async function connectBoth(port: number): Promise<{ readonly client: Socket; readonly server: Socket }> {
  const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
  client.on('error', () => {});
  await once(client, 'connect');
  const isIt = (socket: Socket): boolean =>
    socket.localPort === port && socket.remotePort === client.localPort;
  for (;;) {
    const server = accepted.find(isIt);
    if (server !== undefined) return { client, server };
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** Settles when a socket is closed, with or without an error. */
function closed(socket: Socket): Promise<unknown> {
  return new Promise((resolve) => socket.once('close', resolve));
}

describe('serveMetrics', { concurrency: true, timeout: 30_000 }, () => {
  const good = async (): Promise<string> => 'metric{a="ü"} 1\n';

  it('answers GET with the text', () =>
    withServer(good, async ({ port }, warnings) => {
      assert.notEqual(port, 0);
      for (const path of ['/metrics', '/metrics?', '/metrics?name=x']) {
        assert.deepEqual(await ask(port, 'GET', path), {
          status: 200,
          type: 'text/plain; version=0.0.4; charset=utf-8',
          length: '17',
          allow: undefined,
          connection: 'close',
          text: 'metric{a="ü"} 1\n',
        });
      }
      assert.deepEqual(warnings, []);
    }));

  it('answers HEAD without a body', () =>
    withServer(good, async ({ port }) => {
      const { status, length, text } = await ask(port, 'HEAD', '/metrics');
      assert.deepEqual({ status, length, text }, { status: 200, length: '17', text: '' });
    }));

  it('answers 404 for other paths', () =>
    withServer(good, async ({ port }) => {
      for (const path of ['/', '/metrics/', '/metricsx', '//metrics', '/x?/metrics', '/%6detrics']) {
        assert.equal((await ask(port, 'GET', path)).status, 404, path);
      }
    }));

  it('answers 405 for other methods', () =>
    withServer(good, async ({ port }) => {
      for (const method of ['POST', 'PUT', 'DELETE', 'OPTIONS']) {
        const { status, allow } = await ask(port, method, '/metrics');
        assert.deepEqual({ status, allow }, { status: 405, allow: 'GET, HEAD' }, method);
      }
    }));

  it('answers 500 when collecting fails, logs why, and continues', () => {
    const failures = [
      () => Promise.reject(new Error('no\nworker')),
      () => {
        throw new Error('at once');
      },
      good,
    ];
    return withServer(
      () => (failures.shift() ?? good)(),
      async ({ port }, warnings) => {
        const first = await ask(port, 'GET', '/metrics');
        assert.equal(first.status, 500);
        assert.doesNotMatch(first.text, /worker/);
        assert.equal((await ask(port, 'GET', '/metrics')).status, 500);
        assert.deepEqual(warnings, [
          'unable to collect metrics: no\nworker',
          'unable to collect metrics: at once',
        ]);
        assert.equal((await ask(port, 'GET', '/metrics')).status, 200);
      },
    );
  });

  it('answers 500 when collecting times out', () =>
    withServer(
      () => new Promise(() => {}),
      async ({ port }, warnings) => {
        assert.equal((await ask(port, 'GET', '/metrics')).status, 500);
        assert.deepEqual(warnings, ['unable to collect metrics: collection timed out']);
      },
    ));

  it('collects once per connection, however many requests are pipelined', () => {
    let collected = 0;
    const count = async (): Promise<string> => {
      collected += 1;
      return 'metric 1\n';
    };
    return withServer(count, async ({ port }) => {
      const got = await converse(port, 'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(50));
      assert.match(got, /^HTTP\/1\.1 200 OK\r\n/);
      assert.equal(collected, 1);
    });
  });

  it('closes connections that send too much, or not HTTP', () =>
    withServer(good, async ({ port }) => {
      assert.match(
        await converse(port, `GET /metrics HTTP/1.1\r\nX: ${'x'.repeat(9_000)}`),
        /^HTTP\/1\.1 431 /,
      );
      assert.match(await converse(port, 'EHLO me\r\n'), /^HTTP\/1\.1 400 /);
    }));

  it('closes connections that send nothing, or an incomplete request', () =>
    withServer(good, async ({ port }) => {
      await Promise.all([
        converse(port, ''),
        converse(port, 'GET /metrics HTTP/1.1\r\n'),
        converse(port, 'POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nx'),
      ]);
    }));

  it('accepts at most eight connections', () =>
    withServer(good, async ({ port }) => {
      const sockets: Socket[] = [];
      try {
        for (let count = 0; count < 8; count++) {
          const socket = connect(port, '127.0.0.1');
          sockets.push(socket);
          await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
        }
        assert.equal(await converse(port, 'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n'), '');
        // The first eight are still served.
        const [first] = sockets;
        const answered = new Promise((resolve) => first?.once('data', resolve));
        first?.write('GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n');
        assert.match(String(await answered), /^HTTP\/1\.1 200 OK\r\n/);
      } finally {
        for (const socket of sockets) socket.destroy();
      }
    }));

  it('closes a connection once its response is sent, whatever the client does', () =>
    withServer(good, async ({ port }) => {
      const silent = await connectBoth(port);
      const order: string[] = [];
      const silentEnd = closed(silent.server).then(() => order.push('silent'));
      for (const path of ['/metrics', '/metrics', '/none']) {
        const { client, server } = await connectBoth(port);
        const end = closed(server).then(() => order.push(path));
        client.write(`GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n`);
        client.resume();
        // An idle client is closed after five seconds, as a connection kept alive would be.
        await Promise.race([end, silentEnd]);
        client.destroy();
      }
      await silentEnd;
      silent.client.destroy();
      assert.deepEqual(order, ['/metrics', '/metrics', '/none', 'silent']);
    }));

  it('closes connections of clients that do not read', () =>
    withServer(
      async () => 'x'.repeat(20_000_000),
      async ({ port }) => {
        const eight: Awaited<ReturnType<typeof connectBoth>>[] = [];
        try {
          for (let count = 0; count < 8; count++) {
            const both = await connectBoth(port);
            eight.push(both);
            both.client.write('GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n');
            // The response has started, and is read no further.
            await once(both.client, 'data');
            both.client.pause();
          }
          await assert.rejects(ask(port, 'GET', '/'));
          await Promise.all(eight.map(({ server }) => closed(server)));
          assert.equal((await ask(port, 'GET', '/')).status, 404);
        } finally {
          for (const { client } of eight) client.destroy();
        }
      },
    ));

  it('closes all its connections', async () => {
    const server = await serveMetrics('127.0.0.1', 0, good);
    const socket = connect(server.port, '127.0.0.1');
    await new Promise((resolve) => socket.once('connect', resolve));
    // It was certainly accepted, because it was answered.
    assert.equal((await ask(server.port, 'GET', '/metrics')).status, 200);
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.resume();
    server.close();
    await closed;
    await assert.rejects(ask(server.port, 'GET', '/metrics'), { code: 'ECONNREFUSED' });
  });

  it('reports where it cannot listen, and why', () =>
    withServer(good, async ({ port }) => {
      await assert.rejects(serveMetrics('127.0.0.1', port, good), {
        status: 111,
        message: `unable to listen on 127.0.0.1:${port} for metrics: EADDRINUSE (another process listens there: ss -ltnp)`,
      });
      await assert.rejects(serveMetrics('2001:db8::1', 9, good), {
        message: /^unable to listen on \[2001:db8::1\]:9 for metrics: E[A-Z]+ \([^\n]+\)$/,
      });
      await assert.rejects(serveMetrics('127.0.0.1', 65_536, good), {
        message: 'unable to listen on 127.0.0.1:65536 for metrics: ERR_SOCKET_BAD_PORT',
      });
    }));
});
