/**
 * What the primary process and its workers say to each other, on the channel that node:cluster has between
 * them. Both are the same program, so what comes is what was sent.
 */

import type { Admission } from './gate.ts';
import type { ListenerName, ListenPoint } from './listeners.ts';
import type { MetricsSnapshot } from './metrics/snapshot.ts';
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
