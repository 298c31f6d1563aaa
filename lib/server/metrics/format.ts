import { ALL_FAMILIES, FAMILIES, type Family } from './families.ts';
import type { MetricsSnapshot, Series } from './snapshot.ts';

const PREFIX = 'smtpd_starttls_';

/** Formats a snapshot in the Prometheus text format, version 0.0.4. */
export function formatPrometheus(snapshot: MetricsSnapshot): string {
  let text = '';
  for (const family of ALL_FAMILIES) {
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

/** Formats a snapshot as the fields of one log line; most families with labels become the sum of their series. */
export function formatLine(snapshot: MetricsSnapshot): Record<string, number> {
  const total = (family: Family, ...labels: (string | undefined)[]): number => {
    const series = snapshot[family.name] ?? [];
    const matching = series.filter((one) =>
      labels.every((label, index) => label === undefined || one.labels[index] === label),
    );
    return matching.reduce((sum, one) => sum + (one.numbers[0] ?? 0), 0);
  };
  const exits = total(FAMILIES.exits);
  const reached = total(FAMILIES.relayAttempts, undefined, 'reached');
  return {
    accepted: total(FAMILIES.accepted),
    refused: total(FAMILIES.refused),
    open: total(FAMILIES.open),
    waiting: total(FAMILIES.waiting),
    plaintext: total(FAMILIES.sessions, 'plaintext'),
    tls: total(FAMILIES.sessions, 'tls'),
    close: total(FAMILIES.sessions, 'close'),
    error_limit_reached: total(FAMILIES.errorLimit),
    early_talkers: total(FAMILIES.earlyTalkers),
    handshakes: total(FAMILIES.handshakes),
    resumed: total(FAMILIES.handshakes, undefined, undefined, 'yes'),
    handshake_failures: total(FAMILIES.handshakeFailures),
    smtpd_running: total(FAMILIES.smtpdsRunning),
    smtpd_started: total(FAMILIES.smtpdsStarted),
    without_smtpd: total(FAMILIES.withoutSmtpd),
    smtpd_exits: exits,
    smtpd_failures: exits - total(FAMILIES.exits, '0'),
    relay_reached: reached,
    relay_failures:
      total(FAMILIES.relayAttempts) - reached - total(FAMILIES.relayAttempts, undefined, 'aborted'),
    received_bytes: total(FAMILIES.received),
    sent_bytes: total(FAMILIES.sent),
  };
}
