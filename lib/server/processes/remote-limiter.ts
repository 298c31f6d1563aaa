import { deferred } from '../../program/deferred.ts';
import type { Admission, Gate, Visit } from '../connection/limiter.ts';
import type { FromWorker, ToWorker } from './messages.ts';

/** A gate that is kept by another process. */
export interface RemoteGate extends Gate {
  /** Hands over what the keeper has said. */
  hear(message: ToWorker): void;
}

/** The questions of a visit that are not answered yet. */
interface Questions {
  readonly admit: (admission: Admission) => void;
  readonly claimed: (taken: boolean) => void;
}

/** The worker's side of a gate that counts over all workers. */
export function createRemoteGate(send: (message: FromWorker) => void): RemoteGate {
  const open = new Map<number, Questions>();
  let last = 0;
  return {
    visit: (address) => {
      last += 1;
      const visit = last;
      const { promise: admission, resolve: admit } = deferred<Admission>();
      const { promise: claim, resolve: claimed } = deferred<boolean>();
      open.set(visit, { admit, claimed });
      send({ type: 'visit', visit, ...(address === undefined ? {} : { address }) });
      return {
        admission,
        claim: (name) => {
          send({ type: 'claim', visit, address: name });
          return claim;
        },
        leave: () => {
          if (open.delete(visit)) send({ type: 'leave', visit });
        },
      };
    },
    hear: (message) => {
      if (message.type === 'admission') open.get(message.visit)?.admit(message.admission);
      else if (message.type === 'claimed') open.get(message.visit)?.claimed(message.taken);
    },
  };
}

/** The keeper's side of one worker. */
export interface GateDesk {
  /** Takes a message of the worker. @returns false when it is none for a gate, or not valid now. */
  hear(message: FromWorker): boolean;
  /** The worker is gone, and all that it had in with it. */
  close(): void;
}

/**
 * Lets the connections of a worker through a gate of this process. It knows only those that are in or wait, as many
 * as the gate has room for, whatever the worker sends.
 */
export function openGateDesk(gate: Gate, send: (message: ToWorker) => void): GateDesk {
  const visits = new Map<number, Visit>();
  return {
    hear: (message) => {
      if (message.type === 'visit') {
        const { visit, address } = message;
        // The place of the other could not be given back.
        if (visits.has(visit)) return false;
        const entry = gate.visit(address);
        visits.set(visit, entry);
        void entry.admission.then((admission) => {
          if (visits.get(visit) !== entry) return;
          if (admission !== 'in') visits.delete(visit);
          send({ type: 'admission', visit, admission });
        });
      } else if (message.type === 'claim') {
        const { visit, address } = message;
        void visits
          .get(visit)
          ?.claim(address)
          .then((taken) => send({ type: 'claimed', visit, taken }));
      } else if (message.type === 'leave') {
        // Of a visit that was refused nothing is known any more.
        visits.get(message.visit)?.leave();
        visits.delete(message.visit);
      } else return false;
      return true;
    },
    close: () => {
      for (const entry of visits.values()) entry.leave();
      visits.clear();
    },
  };
}
