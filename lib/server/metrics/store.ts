/**
 * Keeps counts in one row of numbers for each series: one number for a counter or a gauge; for a histogram, one for
 * each bucket (not cumulative), one for what exceeds the last bound, and the sum. So the rows of several processes
 * can be merged number by number.
 *
 * Every family is bounded: its label values are a small fixed set, or come from outside (a reason, a cipher), and then
 * the number of series is limited. Further values are counted under "other".
 */

import { ALL_FAMILIES, type Family } from './families.ts';

/** The maximum length of a label value, in characters. */
const MAX_LABEL_LENGTH = 64;
const OTHER = 'other';

/** The numbers of a series, to be changed in place. */
export interface Row {
  readonly labels: readonly string[];
  readonly numbers: number[];
}

/** The rows of each family, by their label values, see `keyOf`. */
export type Store = Map<Family, Map<string, Row>>;

/** Creates a store of all families. Those without labels have their one series from the start. */
export function createStore(): Store {
  const store: Store = new Map(ALL_FAMILIES.map((family) => [family, new Map()]));
  for (const family of ALL_FAMILIES) if (family.labels.length === 0) rowOf(store, family);
  return store;
}

/**
 * Gives the row for these label values: a new one while the family has fewer than `maxSeries`, else that of "other".
 *
 * @param values as many as the family has labels. They are truncated to 64 characters.
 */
export function rowOf(store: Store, family: Family, ...values: readonly string[]): Row {
  const rows = store.get(family) ?? new Map<string, Row>();
  const labels = values.map((value) => value.slice(0, MAX_LABEL_LENGTH));
  const key = keyOf(labels);
  const existing = rows.get(key);
  if (existing !== undefined) return existing;

  const other = family.labels.map(() => OTHER);
  const otherKey = keyOf(other);
  const distinct = rows.size - (rows.has(otherKey) ? 1 : 0);
  if (distinct >= family.maxSeries && key !== otherKey) return rowOf(store, family, ...other);

  const length = family.kind === 'histogram' ? family.bounds.length + 2 : 1;
  const row = { labels, numbers: new Array<number>(length).fill(0) };
  rows.set(key, row);
  store.set(family, rows);
  return row;
}

/** Distinct for distinct labels: they are truncated, and each is preceded by its length. */
function keyOf(labels: readonly string[]): string {
  let key = '';
  for (const label of labels) key += `${label.length}:${label}`;
  return key;
}
