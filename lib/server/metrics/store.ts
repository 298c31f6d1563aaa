/**
 * Where counts are kept, in one row of numbers for each series: one number for a counter or a gauge; for a
 * histogram one for each bucket, alone and not cumulative, one for what is above the last bound, and the sum.
 * So the rows of several processes are merged number by number.
 *
 * No family grows without bound: the label values are few by their nature, or come from outside (a reason,
 * a cipher) and are cut off at a number of series. What comes later is counted under "other".
 */

import { ALL_FAMILIES, type Family } from './families.ts';

/** The most series of a family, without "other". */
const MAX_SERIES = 32;
/** The most characters of a label value. */
const MAX_LABEL = 64;
const OTHER = 'other';

/** A series that is counted in. */
export interface Row {
  readonly labels: readonly string[];
  readonly numbers: number[];
}

/** The rows of each family, by their label values as JSON. */
export type Store = Map<Family, Map<string, Row>>;

/** Makes a store of all families. Those without labels have their one series from the beginning. */
export function createStore(): Store {
  const store: Store = new Map(ALL_FAMILIES.map((family) => [family, new Map()]));
  for (const family of ALL_FAMILIES) if (family.labels.length === 0) rowOf(store, family);
  return store;
}

/**
 * The row for these label values: a new one while the family has room, else that of "other".
 *
 * @param values as many as the family has labels. They are cut off at 64 characters.
 */
export function rowOf(store: Store, family: Family, ...values: readonly string[]): Row {
  const rows = store.get(family) ?? new Map<string, Row>();
  const labels = values.map((value) => value.slice(0, MAX_LABEL));
  const key = JSON.stringify(labels);
  const known = rows.get(key);
  if (known !== undefined) return known;

  const rest = family.labels.map(() => OTHER);
  const restKey = JSON.stringify(rest);
  const counted = rows.size - (rows.has(restKey) ? 1 : 0);
  if (counted >= MAX_SERIES && key !== restKey) return rowOf(store, family, ...rest);

  const length = family.kind === 'histogram' ? family.bounds.length + 2 : 1;
  const row = { labels, numbers: new Array<number>(length).fill(0) };
  rows.set(key, row);
  store.set(family, rows);
  return row;
}
