/**
 * The messages between the primary process and its workers. Both are the same program, but a client may have
 * compromised a worker, so the messages of workers are validated; those of the primary are trusted.
 */

import type { Admission } from '../connection/limiter.ts';
import type { ListenerName, ListenPoint } from '../listen/listeners.ts';
import { isSnapshot, type MetricsSnapshot } from '../metrics/snapshot.ts';
import type { SecretsSnapshot } from '../secrets.ts';

/** From the primary to a worker. */
export type ToWorker =
  /** Listen on these sockets, with these keys and certificates. */
  | {
      readonly type: 'start';
      readonly secrets: SecretsSnapshot;
      readonly listenPoints: readonly ListenPoint[];
    }
  /** Use these keys and certificates from now on. */
  | { readonly type: 'renew'; readonly secrets: SecretsSnapshot }
  /** Learn again how smtpd introduces itself. */
  | { readonly type: 'learn' }
  | { readonly type: 'admission'; readonly slot: number; readonly admission: Admission }
  | { readonly type: 'claimed'; readonly slot: number; readonly granted: boolean }
  /** Send the metrics. */
  | { readonly type: 'collect' }
  /** Shut down gracefully; the second time, without waiting for sessions. */
  | { readonly type: 'stop' };

/** From a worker to the primary. */
export type FromWorker =
  /** The worker accepts connections. */
  | { readonly type: 'ready'; readonly listeners: readonly ListenerName[] }
  /** See `Limiter`. Slot numbers are the worker's own. */
  | { readonly type: 'slot'; readonly slot: number; readonly address?: string }
  /** The same for an smtpd. */
  | { readonly type: 'smtpd-slot'; readonly slot: number }
  | { readonly type: 'claim'; readonly slot: number; readonly address: string }
  | { readonly type: 'release'; readonly slot: number }
  /** The answer to `collect`. */
  | { readonly type: 'collected'; readonly metrics: MetricsSnapshot };

/** The maximum length of an address, in characters: more than the longest IPv6 address with /64. */
const MAX_ADDRESS_LENGTH = 64;

/** Whether a value received from a worker is a valid message. */
export function isFromWorker(message: unknown): message is FromWorker {
  if (!isRecord(message)) return false;
  const { type, slot, address, listeners, metrics } = message;
  if (type === 'ready') return Array.isArray(listeners) && listeners.every(isListenerName);
  if (type === 'collected') return isSnapshot(metrics);
  if (!Number.isSafeInteger(slot)) return false;
  if (type === 'slot') return address === undefined || isAddress(address);
  return type === 'release' || type === 'smtpd-slot' || (type === 'claim' && isAddress(address));
}

function isAddress(value: unknown): boolean {
  return typeof value === 'string' && value.length <= MAX_ADDRESS_LENGTH;
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
