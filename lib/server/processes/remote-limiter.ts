import { deferred } from '../../program/deferred.ts';
import type { Admission, Limiter, Slot } from '../connection/limiter.ts';
import type { FromWorker, ToWorker } from './messages.ts';

/** A limiter that counts in another process. */
export interface RemoteLimiter extends Limiter {
  /** Processes a message of the primary. Messages that are not for a limiter are ignored. */
  receive(message: ToWorker): void;
}

/** Settle the pending requests of a slot. */
interface PendingRequests {
  readonly decide: (admission: Admission) => void;
  readonly claimed: (granted: boolean) => void;
}

/** Creates the worker's side of the limiter that counts over all workers. */
export function createRemoteLimiter(send: (message: FromWorker) => void): RemoteLimiter {
  const open = new Map<number, PendingRequests>();
  let last = 0;
  return {
    slot: (address) => {
      last += 1;
      const slot = last;
      const { promise: admission, resolve: decide } = deferred<Admission>();
      const { promise: claim, resolve: claimed } = deferred<boolean>();
      open.set(slot, { decide, claimed });
      send({ type: 'slot', slot, ...(address === undefined ? {} : { address }) });
      return {
        admission,
        claim: (claimedAddress) => {
          send({ type: 'claim', slot, address: claimedAddress });
          return claim;
        },
        release: () => {
          if (open.delete(slot)) send({ type: 'release', slot });
        },
      };
    },
    receive: (message) => {
      if (message.type === 'admission') open.get(message.slot)?.decide(message.admission);
      else if (message.type === 'claimed') open.get(message.slot)?.claimed(message.granted);
    },
  };
}

/** The slots of one worker, in the primary. */
export interface WorkerSlots {
  /** Processes a message of the worker. @returns false when it is not for a limiter, or not valid now. */
  receive(message: FromWorker): boolean;
  /** Releases all slots: the worker has exited. */
  close(): void;
}

/**
 * Creates the primary's side of the limiter for one worker. Only slots that are active or waiting are kept, so the
 * limits of the limiter bound their number whatever the worker sends.
 */
export function openWorkerSlots(limiter: Limiter, send: (message: ToWorker) => void): WorkerSlots {
  const slots = new Map<number, Slot>();
  return {
    receive: (message) => {
      if (message.type === 'slot') {
        const { slot, address } = message;
        // The other slot with this number could no longer be released.
        if (slots.has(slot)) return false;
        const entry = limiter.slot(address);
        slots.set(slot, entry);
        void entry.admission.then((admission) => {
          if (slots.get(slot) !== entry) return;
          if (admission !== 'admitted') slots.delete(slot);
          send({ type: 'admission', slot, admission });
        });
      } else if (message.type === 'claim') {
        const { slot, address } = message;
        void slots
          .get(slot)
          ?.claim(address)
          .then((granted) => send({ type: 'claimed', slot, granted }));
      } else if (message.type === 'release') {
        // A slot that was refused is not kept.
        slots.get(message.slot)?.release();
        slots.delete(message.slot);
      } else return false;
      return true;
    },
    close: () => {
      for (const entry of slots.values()) entry.release();
      slots.clear();
    },
  };
}
