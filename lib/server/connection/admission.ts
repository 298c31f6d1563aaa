import type { Socket } from 'node:net';
import { addressGroup, type Networks } from '../../net/address.ts';
import type { Endpoints } from '../../net/endpoints.ts';
import { readProxyHeader } from '../../net/proxy-protocol/header.ts';
import { errorCode } from '../../program/failure.ts';
import { REPLIES } from '../../smtp/reply.ts';
import { within } from '../../stream/time.ts';
import { watchDeparture } from './departure.ts';
import type { Admission, Slot } from './limiter.ts';

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

/** The reply to a refused connection; none where the peer may not be speaking SMTP. */
export const REFUSAL_REPLIES: Partial<Readonly<Record<Refusal, () => Buffer>>> = {
  'per-address': () => REPLIES.tooManyFromAddress,
  'no-room': () => REPLIES.tooBusy,
  'wait-timeout': () => REPLIES.tooBusy,
  stopping: () => REPLIES.shuttingDown,
};

/** A connection that requests admission. */
export interface AdmissionRequest {
  readonly socket: Socket;
  /** Its two ends as the kernel reports them. */
  readonly ends: Endpoints;
  /** Its slot of the limiter. The caller releases it. */
  readonly slot: Slot;
  /** The proxies that must send a PROXY header; undefined when no PROXY header is expected. */
  readonly proxies: Networks | undefined;
  /** How long it may wait for a slot, in milliseconds. */
  readonly waitTimeout: number;
  /** Settles when no more connections are admitted. */
  readonly draining: Promise<void>;
  /** Settles when the connection must end. */
  readonly stopping: Promise<void>;
}

/** The outcome of an admission request. */
export type AdmissionResult =
  | {
      readonly type: 'admitted';
      /** The ends of the client's connection. */
      readonly client: Endpoints;
      /** The connection is the proxy's own, usually a health check. */
      readonly isProxyOwn: boolean;
    }
  | {
      readonly type: 'refused';
      readonly why: Refusal;
      readonly text?: string;
      /** As above, when a PROXY header named them. */
      readonly client?: Endpoints;
    }
  /** The client disconnected while it waited. */
  | { readonly type: 'departed' };

/**
 * Requests admission for a connection: waits for its slot, reads the PROXY header if one is expected, and counts the
 * client's address.
 */
export async function requestAdmission(request: AdmissionRequest): Promise<AdmissionResult> {
  const { ends, proxies, slot } = request;
  if (proxies?.contains(ends.remote.ip) === false) return { type: 'refused', why: 'untrusted' };
  // Most connections need not wait: then the promise has settled already, and its reaction is the first.
  let decided: Admission | undefined;
  void slot.admission.then((admission) => {
    decided = admission;
  });
  await undefined;
  const outcome = decided ?? (await wait(request));
  if (outcome === 'departed') return { type: 'departed' };
  if (outcome !== 'admitted') return { type: 'refused', why: outcome };
  return proxies === undefined ? { type: 'admitted', client: ends, isProxyOwn: false } : identify(request);
}

async function wait(request: AdmissionRequest): Promise<'admitted' | Refusal | 'departed'> {
  const watch = watchDeparture(request.socket);
  const outcome = await within(
    request.waitTimeout,
    Promise.race([
      request.slot.admission,
      watch.departed.then(() => 'departed' as const),
      request.draining.then(() => 'stopping' as const),
    ]),
  );
  await watch.stop();
  return outcome ?? 'wait-timeout';
}

async function identify({ socket, ends, slot, stopping }: AdmissionRequest): Promise<AdmissionResult> {
  let announced: Endpoints | undefined;
  try {
    announced = await readProxyHeader(socket, stopping);
  } catch (error) {
    return { type: 'refused', why: 'proxy-header', text: errorCode(error) };
  }
  const client = announced ?? ends;
  // If the process that keeps the limiter has exited, the claim never settles.
  const claimed = await Promise.race([
    slot.claim(addressGroup(client.remote.ip)),
    stopping.then(() => 'stopping' as const),
  ]);
  if (claimed === true) return { type: 'admitted', client, isProxyOwn: announced === undefined };
  return { type: 'refused', why: claimed === false ? 'per-address' : claimed, client };
}
