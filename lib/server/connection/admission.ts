import type { Socket } from 'node:net';
import { addressGroup, type Networks } from '../../net/address.ts';
import type { Endpoints } from '../../net/endpoints.ts';
import { readProxyHeader } from '../../net/proxy-protocol/header.ts';
import { errorCode } from '../../program/failure.ts';
import { after } from '../../stream/time.ts';
import { watchDeparture } from './departure.ts';
import type { Slot } from './limiter.ts';

/** Why a connection was refused before a session began. The metrics count refusals by these names. */
export const REFUSALS = [
  /** Too many connections from its address. */
  'per-address',
  /** Too many connections in all. */
  'no-room',
  /** It waited longer than `waitTimeout` for a slot. */
  'wait-timeout',
  /** The PROXY header is malformed, or did not arrive in time. */
  'proxy-header',
  /** A PROXY header is required, and the peer is not a trusted proxy. */
  'untrusted',
  /** The server is shutting down. */
  'stopping',
] as const;
export type Refusal = (typeof REFUSALS)[number];

/** A connection that wants to be served. */
export interface AdmissionRequest {
  readonly socket: Socket;
  /** Its ends, as the system tells them. */
  readonly ends: Endpoints;
  /** Its place at the limiter. */
  readonly slot: Slot;
  /** From where a PROXY header is asked for and believed; undefined when none is. */
  readonly proxies: Networks | undefined;
  /** How long it may wait for its turn, in milliseconds. */
  readonly waitTimeout: number;
  /** Settles when nobody is let in any more. */
  readonly draining: Promise<void>;
  /** Settles when it is to end at once. */
  readonly stopping: Promise<void>;
}

/** What becomes of it. */
export type AdmissionResult =
  | {
      readonly type: 'in';
      /** The ends of the client's connection. */
      readonly client: Endpoints;
      /** The connection is a proxy's own, which sees whether we are alive, as a rule, and hangs up. */
      readonly isProxyOwn: boolean;
    }
  | {
      readonly type: 'refused';
      readonly why: Refusal;
      readonly text?: string;
      /** As above, when a proxy has told them. */
      readonly client?: Endpoints;
    }
  /** It was tired of waiting. */
  | { readonly type: 'departed' };

/** Sees a connection through the limiter: it waits for its turn, and a proxy says whose it is. */
export async function enter(request: AdmissionRequest): Promise<AdmissionResult> {
  const { ends, proxies, slot } = request;
  if (proxies?.contains(ends.remote.ip) === false) return { type: 'refused', why: 'untrusted' };
  // Most need not wait. What is settled already wins here.
  const outcome = (await Promise.race([slot.admission, undefined])) ?? (await wait(request));
  if (outcome === 'departed') return { type: 'departed' };
  if (outcome !== 'in') return { type: 'refused', why: outcome };
  return proxies === undefined ? { type: 'in', client: ends, isProxyOwn: false } : identify(request);
}

async function wait(request: AdmissionRequest): Promise<'in' | Refusal | 'departed'> {
  const limit = after(request.waitTimeout);
  const watch = watchDeparture(request.socket);
  const outcome = await Promise.race([
    request.slot.admission,
    watch.departed.then(() => 'departed' as const),
    limit.passed.then(() => 'wait-timeout' as const),
    request.draining.then(() => 'stopping' as const),
  ]);
  await watch.stop();
  limit.cancel();
  return outcome;
}

async function identify({ socket, ends, slot, stopping }: AdmissionRequest): Promise<AdmissionResult> {
  let named: Endpoints | undefined;
  try {
    named = await readProxyHeader(socket, stopping);
  } catch (error) {
    return { type: 'refused', why: 'proxy-header', text: errorCode(error) };
  }
  const client = named ?? ends;
  // Who keeps the limiter may be gone, and never answer.
  const answer = await Promise.race([
    slot.claim(addressGroup(client.remote.ip)),
    stopping.then(() => 'stopping' as const),
  ]);
  if (answer === true) return { type: 'in', client, isProxyOwn: named === undefined };
  return { type: 'refused', why: answer === false ? 'per-address' : answer, client };
}
