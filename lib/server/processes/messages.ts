/**
 * The messages between the primary process and its workers. Both are the same program. Yet a client may have taken
 * over a worker, so the messages of workers are checked; those of the primary are trusted.
 */

import type { Admission } from '../connection/limiter.ts';
import type { ListenerName, ListenPoint } from '../listen/listeners.ts';
import { isSnapshot, type MetricsSnapshot } from '../metrics/snapshot.ts';
import type { SecretsSnapshot } from '../secrets.ts';

/** From the primary to a worker. */
export type ToWorker =
  /** Listen, with these. */
  | {
      readonly type: 'start';
      readonly secrets: SecretsSnapshot;
      readonly listenPoints: readonly ListenPoint[];
    }
  /** Take these into use. */
  | { readonly type: 'renew'; readonly secrets: SecretsSnapshot }
  | { readonly type: 'admission'; readonly slot: number; readonly admission: Admission }
  | { readonly type: 'claimed'; readonly slot: number; readonly taken: boolean }
  /** Send what was counted. */
  | { readonly type: 'count' }
  /** Shut down gracefully; a second time: without waiting for sessions. */
  | { readonly type: 'stop' };

/** From a worker to the primary. */
export type FromWorker =
  /** It accepts connections. */
  | { readonly type: 'ready'; readonly listeners: readonly ListenerName[] }
  /** See `Limiter`. Numbers of slots are the worker's own. */
  | { readonly type: 'slot'; readonly slot: number; readonly address?: string }
  | { readonly type: 'claim'; readonly slot: number; readonly address: string }
  | { readonly type: 'leave'; readonly slot: number }
  /** The answer to `count`. */
  | { readonly type: 'counted'; readonly metrics: MetricsSnapshot };

/** The longest text that counts as an address, in characters: more than the longest of IPv6, as /64. */
const MOST_ADDRESS = 64;

/** Whether something that came from a worker is one of those, with values that can be. */
export function isFromWorker(message: unknown): message is FromWorker {
  if (!isRecord(message)) return false;
  const { type, slot, address, listeners, metrics } = message;
  if (type === 'ready') return Array.isArray(listeners) && listeners.every(isListenerName);
  if (type === 'counted') return isSnapshot(metrics);
  if (!Number.isSafeInteger(slot)) return false;
  if (type === 'slot') return address === undefined || isAddress(address);
  return type === 'leave' || (type === 'claim' && isAddress(address));
}

function isAddress(value: unknown): boolean {
  return typeof value === 'string' && value.length <= MOST_ADDRESS;
}

function isListenerName(value: unknown): boolean {
  return isRecord(value) && isPort(value.port) && typeof value.name === 'string';
}

function isPort(value: unknown): boolean {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 65535;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}
