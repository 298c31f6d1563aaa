/** What was counted up to a moment: how it passes from process to process, and becomes one. */

import { ALL_FAMILIES, type Family } from './families.ts';
import { createStore, rowOf, type Store } from './store.ts';

/** A row of numbers (see store.ts) and the label values that it is for, in the order of the family's labels. */
export interface Series {
  readonly labels: readonly string[];
  readonly numbers: readonly number[];
}

/** What was counted, by the name of the family: plain JSON, fit for a channel between processes. */
export type MetricsSnapshot = Readonly<Record<string, readonly Series[]>>;

/** Copies what a store has now. */
export function snapshotOf(store: Store): MetricsSnapshot {
  const snapshot: Record<string, readonly Series[]> = {};
  for (const [{ name }, rows] of store) {
    snapshot[name] = [...rows.values()].map(({ labels, numbers }) => ({ labels, numbers: [...numbers] }));
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
    for (const family of ALL_FAMILIES) {
      for (const { labels, numbers } of snapshot[family.name] ?? []) {
        const merged = rowOf(store, family, ...labels).numbers;
        for (const [index, number] of merged.entries()) {
          merged[index] = family.merge(number, numbers[index] ?? 0);
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
  for (const { name, kind } of ALL_FAMILIES) if (kind !== 'gauge') lasting[name] = snapshot[name] ?? [];
  return lasting;
}

/**
 * Whether a message of another process is a snapshot: each series of a known family has its labels, and numbers that
 * can be added up. Families that are not known are not looked at: `mergeSnapshots` leaves them out.
 */
export function isSnapshot(value: unknown): value is MetricsSnapshot {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const lists = new Map<string, unknown>(Object.entries(value));
  return ALL_FAMILIES.every((family) => {
    const list = lists.get(family.name) ?? [];
    return Array.isArray(list) && list.every((series) => isSeries(series, family));
  });
}

function isSeries(value: unknown, family: Family): value is Series {
  if (typeof value !== 'object' || value === null || !('labels' in value) || !('numbers' in value))
    return false;
  const { labels, numbers } = value;
  if (!Array.isArray(labels) || !Array.isArray(numbers)) return false;
  if (labels.length !== family.labels.length) return false;
  return labels.every((label) => typeof label === 'string') && numbers.every(isCount);
}

/** Sums of them stay finite. */
function isCount(value: unknown): boolean {
  return typeof value === 'number' && value >= 0 && value <= Number.MAX_SAFE_INTEGER;
}
