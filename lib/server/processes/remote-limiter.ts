import { deferred } from '../../program/deferred.ts';
import type { Admission, Limiters, Slot } from '../connection/limiter.ts';
import type { FromWorker, ToWorker } from './messages.ts';

/** The limiters that count in another process. */
export interface RemoteLimiters extends Limiters {
  /** Processes a message of the primary. Messages that are not for a limiter are ignored. */
  receive(message: ToWorker): void;
}

/** Settle the pending requests of a slot. */
interface PendingRequests {
  readonly decide: (admission: Admission) => void;
  readonly claimed: (granted: boolean) => void;
}

/** Creates the worker's side of the limiters that count over all workers. */
export function createRemoteLimiters(send: (message: FromWorker) => void): RemoteLimiters {
  const open = new Map<number, PendingRequests>();
  let last = 0;

  /** @param request makes the message that requests the slot with this number. */
  function requestSlot(request: (slot: number) => FromWorker): Slot {
    last += 1;
    const slot = last;
    const { promise: admission, resolve: decide } = deferred<Admission>();
    const { promise: claim, resolve: claimed } = deferred<boolean>();
    open.set(slot, { decide, claimed });
    send(request(slot));
    return {
      admission,
      claim: (address) => {
        send({ type: 'claim', slot, address });
        return claim;
      },
      release: () => {
        if (open.delete(slot)) send({ type: 'release', slot });
      },
    };
  }

  return {
    limiter: {
      slot: (address) =>
        requestSlot((slot) => ({ type: 'slot', slot, ...(address === undefined ? {} : { address }) })),
    },
    smtpdLimiter: { slot: () => requestSlot((slot) => ({ type: 'smtpd-slot', slot })) },
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
 * Creates the primary's side of the limiters for one worker. Only slots that are active or waiting are kept, so the
 * limits of the limiters bound their number whatever the worker sends.
 */
export function openWorkerSlots(
  { limiter, smtpdLimiter }: Limiters,
  send: (message: ToWorker) => void,
): WorkerSlots {
  const slots = new Map<number, Slot>();

  /** @returns false if the number is in use: the other slot could no longer be released. */
  function open(slot: number, request: () => Slot): boolean {
    if (slots.has(slot)) return false;
    const entry = request();
    slots.set(slot, entry);
    void entry.admission.then((admission) => {
      if (slots.get(slot) !== entry) return;
      if (admission !== 'admitted') slots.delete(slot);
      send({ type: 'admission', slot, admission });
    });
    return true;
  }

  return {
    receive: (message) => {
      if (message.type === 'slot') return open(message.slot, () => limiter.slot(message.address));
      if (message.type === 'smtpd-slot') return open(message.slot, () => smtpdLimiter.slot(undefined));
      if (message.type === 'claim') {
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
