import { deferred } from '../../program/deferred.ts';
import type { Admission, Limiter, Slot } from '../connection/limiter.ts';
import type { FromWorker, ToWorker } from './messages.ts';

/** A limiter that is kept by another process. */
export interface RemoteLimiter extends Limiter {
  /** Hands over what the keeper has said. */
  hear(message: ToWorker): void;
}

/** The questions of a slot that are not answered yet. */
interface Questions {
  readonly admit: (admission: Admission) => void;
  readonly claimed: (taken: boolean) => void;
}

/** The worker's side of a limiter that counts over all workers. */
export function createRemoteLimiter(send: (message: FromWorker) => void): RemoteLimiter {
  const open = new Map<number, Questions>();
  let last = 0;
  return {
    slot: (address) => {
      last += 1;
      const slot = last;
      const { promise: admission, resolve: admit } = deferred<Admission>();
      const { promise: claim, resolve: claimed } = deferred<boolean>();
      open.set(slot, { admit, claimed });
      send({ type: 'slot', slot, ...(address === undefined ? {} : { address }) });
      return {
        admission,
        claim: (name) => {
          send({ type: 'claim', slot, address: name });
          return claim;
        },
        leave: () => {
          if (open.delete(slot)) send({ type: 'leave', slot });
        },
      };
    },
    hear: (message) => {
      if (message.type === 'admission') open.get(message.slot)?.admit(message.admission);
      else if (message.type === 'claimed') open.get(message.slot)?.claimed(message.taken);
    },
  };
}

/** The keeper's side of one worker. */
export interface WorkerSlots {
  /** Takes a message of the worker. @returns false when it is none for a limiter, or not valid now. */
  hear(message: FromWorker): boolean;
  /** The worker is gone, and all that it had in with it. */
  close(): void;
}

/**
 * Lets the connections of a worker through a limiter of this process. It knows only those that are in or wait, as many
 * as the limiter has room for, whatever the worker sends.
 */
export function openWorkerSlots(limiter: Limiter, send: (message: ToWorker) => void): WorkerSlots {
  const slots = new Map<number, Slot>();
  return {
    hear: (message) => {
      if (message.type === 'slot') {
        const { slot, address } = message;
        // The place of the other could not be given back.
        if (slots.has(slot)) return false;
        const entry = limiter.slot(address);
        slots.set(slot, entry);
        void entry.admission.then((admission) => {
          if (slots.get(slot) !== entry) return;
          if (admission !== 'in') slots.delete(slot);
          send({ type: 'admission', slot, admission });
        });
      } else if (message.type === 'claim') {
        const { slot, address } = message;
        void slots
          .get(slot)
          ?.claim(address)
          .then((taken) => send({ type: 'claimed', slot, taken }));
      } else if (message.type === 'leave') {
        // Of a slot that was refused nothing is known any more.
        slots.get(message.slot)?.leave();
        slots.delete(message.slot);
      } else return false;
      return true;
    },
    close: () => {
      for (const entry of slots.values()) entry.leave();
      slots.clear();
    },
  };
}
