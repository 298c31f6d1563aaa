/**
 * What the primary process and its workers say to each other, on the channel that node:cluster has between
 * them. Both are the same program. Yet a worker speaks with strangers and may not be itself any more, so what
 * it says is looked at before it is believed; what the primary says is not.
 */

import type { Admission } from './gate.ts';
import type { ListenerName, ListenPoint } from './listeners.ts';
import { isSnapshot, type MetricsSnapshot } from './metrics/snapshot.ts';
import type { SecretsSnapshot } from './secrets.ts';

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
  | { readonly type: 'admission'; readonly visit: number; readonly admission: Admission }
  | { readonly type: 'claimed'; readonly visit: number; readonly taken: boolean }
  /** Say what was counted. */
  | { readonly type: 'count'; readonly request: number }
  /** End in good order; said again: faster. */
  | { readonly type: 'stop' };

/** From a worker to the primary. */
export type FromWorker =
  /** It can be told to start. */
  | { readonly type: 'started' }
  /** It listens and is open. */
  | { readonly type: 'ready'; readonly listeners: readonly ListenerName[] }
  /** See `Gate`. Numbers of visits are the worker's own. */
  | { readonly type: 'visit'; readonly visit: number; readonly address?: string }
  | { readonly type: 'claim'; readonly visit: number; readonly address: string }
  | { readonly type: 'leave'; readonly visit: number }
  | { readonly type: 'counted'; readonly request: number; readonly metrics: MetricsSnapshot };

/** Whether what a worker has said is one of those. */
export function isFromWorker(message: unknown): message is FromWorker {
  if (!isRecord(message)) return false;
  const { type, visit, address, listeners, request, metrics } = message;
  if (type === 'started') return true;
  if (type === 'ready') return Array.isArray(listeners) && listeners.every(isListenerName);
  if (type === 'counted') return typeof request === 'number' && isSnapshot(metrics);
  if (typeof visit !== 'number') return false;
  if (type === 'visit') return address === undefined || typeof address === 'string';
  return type === 'leave' || (type === 'claim' && typeof address === 'string');
}

function isListenerName(value: unknown): boolean {
  return isRecord(value) && typeof value.port === 'number' && typeof value.name === 'string';
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null;
}
