import type { Socket } from 'node:net';
import { addressGroup, type Networks } from '../../net/address.ts';
import type { Endpoints } from '../../net/endpoints.ts';
import { readProxyHeader } from '../../net/proxy-protocol/header.ts';
import { errorCode } from '../../program/failure.ts';
import { after } from '../../stream/time.ts';
import type { Refusal } from '../metrics/families.ts';
import { watchDeparture } from './departure.ts';
import type { Visit } from './limiter.ts';

/** A connection that wants to be served. */
export interface Applicant {
  readonly socket: Socket;
  /** Its ends, as the system tells them. */
  readonly ends: Endpoints;
  /** Its place at the gate. */
  readonly visit: Visit;
  /** From where a PROXY header is asked for and believed; undefined when none is. */
  readonly proxies: Networks | undefined;
  /** How long it may wait for its turn, in milliseconds. */
  readonly patience: number;
  /** Settles when nobody is let in any more. */
  readonly dismissed: Promise<void>;
  /** Settles when it is to end at once. */
  readonly ending: Promise<void>;
}

/** What becomes of it. */
export type Entrance =
  | {
      readonly type: 'in';
      /** The ends of the client's connection. */
      readonly client: Endpoints;
      /** The connection is a proxy's own, which sees whether we are alive, as a rule, and hangs up. */
      readonly isProxys: boolean;
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

/** Sees a connection through the gate: it waits for its turn, and a proxy says whose it is. */
export async function enter(applicant: Applicant): Promise<Entrance> {
  const { ends, proxies, visit } = applicant;
  if (proxies?.contains(ends.remote.ip) === false) return { type: 'refused', why: 'untrusted' };
  // Most need not wait. What is settled already wins here.
  const outcome = (await Promise.race([visit.admission, undefined])) ?? (await wait(applicant));
  if (outcome === 'departed') return { type: 'departed' };
  if (outcome !== 'in') return { type: 'refused', why: outcome };
  return proxies === undefined ? { type: 'in', client: ends, isProxys: false } : identify(applicant);
}

async function wait(applicant: Applicant): Promise<'in' | Refusal | 'departed'> {
  const limit = after(applicant.patience);
  const watch = watchDeparture(applicant.socket);
  const outcome = await Promise.race([
    applicant.visit.admission,
    watch.departed.then(() => 'departed' as const),
    limit.passed.then(() => 'wait-timeout' as const),
    applicant.dismissed.then(() => 'stopping' as const),
  ]);
  await watch.stop();
  limit.cancel();
  return outcome;
}

async function identify({ socket, ends, visit, ending }: Applicant): Promise<Entrance> {
  let named: Endpoints | undefined;
  try {
    named = await readProxyHeader(socket, ending);
  } catch (error) {
    return { type: 'refused', why: 'proxy-header', text: errorCode(error) };
  }
  const client = named ?? ends;
  // Who keeps the gate may be gone, and never answer.
  const answer = await Promise.race([
    visit.claim(addressGroup(client.remote.ip)),
    ending.then(() => 'stopping' as const),
  ]);
  if (answer === true) return { type: 'in', client, isProxys: named === undefined };
  return { type: 'refused', why: answer === false ? 'per-address' : answer, client };
}
