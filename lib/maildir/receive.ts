import { deferred } from '../program/deferred.ts';
import { errorCode } from '../program/failure.ts';
import type { Reporter } from '../program/reporter.ts';
import type { ByteStream } from '../stream/byte-stream.ts';
import { watchSilence } from '../stream/time.ts';
import type { Reception, Step } from './protocol/receiver.ts';
import type { Envelope } from './protocol/transaction.ts';
import type { Delivery } from './store/delivery.ts';

/** What a reception is held with, and under which terms. */
export interface Receiving {
  readonly reception: Reception;
  readonly client: ByteStream;
  /** Begins to deliver a message. @throws when the system does not allow it. */
  readonly deliver: (envelope: Envelope) => Delivery;
  /** How long nothing may happen, in milliseconds; a line that trickles in does not count as happening. */
  readonly silence: number;
  readonly report: Reporter;
}

/** A reception under way. */
export interface Receipt {
  /** Settles when all is said, though not all of it may have left this process. No delivery is under way. */
  readonly ended: Promise<Cause>;
  /** Ends it. */
  terminate(): void;
}

/** How a reception ended; see `Step`. */
export type Cause = Extract<Step, { type: 'close' }>['cause'];

/** Replies are gathered up to so many octets. One by one, TCP would hold each back for the one before. */
const REPLIES_GATHERED = 4096;

/**
 * Drives a reception: carries bytes into it and its steps out.
 *
 * Steps wait while the client does not take what was written to it, and then it is not read: that is what
 * bounds the memory.
 */
export function receive({ reception, client, deliver, silence, report }: Receiving): Receipt {
  let delivery: Delivery | undefined;
  let replies: Buffer[] = [];
  let gathered = 0;
  let stalled = false;
  let cause: Cause | undefined;
  const { promise: ended, resolve: settle } = deferred<Cause>();

  const watch = watchSilence(silence, () => {
    reception.timedOut();
    finish();
  });
  client.source.listen({
    bytes: (bytes) => {
      reception.fromClient(bytes);
      advance();
    },
    ended: () => {
      reception.clientEnded();
      advance();
    },
  });
  client.sink.listen({
    drained: () => {
      stalled = false;
      watch.heard();
      advance();
    },
    // Nobody would learn what becomes of a message, so it is left to the client to send it again.
    failed: () => close('cut'),
  });
  queueMicrotask(advance);
  return {
    ended,
    terminate: () => {
      reception.terminated();
      finish();
    },
  };

  function advance(): void {
    while (cause === undefined && !stalled) {
      const step = reception.next();
      if (step === undefined) {
        flush();
        break;
      }
      watch.heard();
      carryOut(step);
    }
    if (cause !== undefined || stalled) client.source.pause();
    else client.source.read();
  }

  /** Takes the last steps, even if the client does not listen: then it will not hear the farewell either. */
  function finish(): void {
    stalled = false;
    advance();
  }

  function carryOut(step: Step): void {
    switch (step.type) {
      case 'reply':
        replies.push(step.bytes);
        gathered += step.bytes.length;
        if (gathered >= REPLIES_GATHERED) flush();
        return;
      case 'open':
        attempt(() => {
          delivery = deliver(step.envelope);
          reception.opened();
        });
        return;
      case 'write':
        attempt(() => delivery?.write(step.bytes));
        return;
      case 'skip':
        return;
      case 'store':
        attempt(() => {
          delivery?.store();
          reception.stored();
        });
        return;
      case 'discard':
        delivery?.discard();
        return;
      case 'close':
        flush();
        close(step.cause);
        return;
    }
  }

  /** Does what the system may refuse. The client is told by the reception, the one who runs it by stderr. */
  function attempt(act: () => void): void {
    try {
      act();
    } catch (error) {
      report.warning(`unable to store a message: ${errorCode(error)}`);
      delivery?.discard();
      reception.failed();
    }
  }

  function flush(): void {
    if (gathered === 0) return;
    stalled = !client.sink.write(Buffer.concat(replies));
    replies = [];
    gathered = 0;
  }

  function close(how: Cause): void {
    if (cause !== undefined) return;
    cause = how;
    watch.stop();
    delivery?.discard();
    settle(how);
  }
}
