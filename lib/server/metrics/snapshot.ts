/** Metrics at one moment: how they are sent between processes, and merged. */

import { ALL_FAMILIES, type Family } from './families.ts';
import { createStore, rowOf, type Store } from './store.ts';

/** A row of numbers (see store.ts) and its label values, in the order of the family's labels. */
export interface Series {
  readonly labels: readonly string[];
  readonly numbers: readonly number[];
}

/** The series of each family, by its name: plain data that can be sent as JSON. */
export type MetricsSnapshot = Readonly<Record<string, readonly Series[]>>;

/** Copies the current contents of a store. */
export function snapshotOf(store: Store): MetricsSnapshot {
  const snapshot: Record<string, readonly Series[]> = {};
  for (const [{ name }, rows] of store) {
    snapshot[name] = [...rows.values()].map(({ labels, numbers }) => ({ labels, numbers: [...numbers] }));
  }
  return snapshot;
}

/** A snapshot of one family without labels. */
export function singleSeries({ name }: Family, value: number): MetricsSnapshot {
  return { [name]: [{ labels: [], numbers: [value] }] };
}

/**
 * Merges the snapshots of several processes: counters, buckets and gauges are added; the earliest start time is kept.
 * The result has the same limit on series per family, so pass the snapshots in the same order each time.
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
 * The part of a snapshot to keep after its process has exited: all but gauges. Otherwise the total counters would
 * decrease with each worker that exits.
 */
export function lastingPart(snapshot: MetricsSnapshot): MetricsSnapshot {
  const lasting: Record<string, readonly Series[]> = {};
  for (const { name, kind } of ALL_FAMILIES) if (kind !== 'gauge') lasting[name] = snapshot[name] ?? [];
  return lasting;
}

/**
 * Whether a value received from another process is a snapshot: each series of a known family has its labels, and
 * numbers that can be added. Unknown families are not checked: `mergeSnapshots` ignores them.
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

/** Whether a value is a count small enough for sums to stay finite. */
function isCount(value: unknown): boolean {
  return typeof value === 'number' && value >= 0 && value <= Number.MAX_SAFE_INTEGER;
}
