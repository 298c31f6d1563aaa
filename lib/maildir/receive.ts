import { deferred } from '../program/deferred.ts';
import { explain } from '../program/explain.ts';
import type { Reporter } from '../program/reporter.ts';
import type { ByteStream } from '../stream/byte-stream.ts';
import { watchIdle } from '../stream/time.ts';
import { createWriteBuffer } from '../stream/write-buffer.ts';
import type { CloseReason, Receiver, ReceiverStep } from './protocol/receiver.ts';
import type { Envelope } from './protocol/transaction.ts';
import type { Delivery } from './store/delivery.ts';

/** What `receive` works with. */
export interface ReceiveOptions {
  readonly receiver: Receiver;
  readonly client: ByteStream;
  /** Starts the delivery of a message. @throws when a system call fails. */
  readonly startDelivery: (envelope: Envelope) => Delivery;
  /** The idle timeout, in milliseconds. Part of a command line does not restart it. */
  readonly idleTimeout: number;
  readonly report: Reporter;
}

/** A receiver that serves its client. */
export interface RunningReceiver {
  /**
   * Settles when the last reply is written, though part of it may still be in this process. No delivery is in
   * progress then.
   */
  readonly closed: Promise<CloseReason>;
  /** Sends 421 and closes. */
  stop(): void;
}

/**
 * Replies to pipelined commands are written together when they reach this many octets, or when no command is
 * left. If each was written alone, TCP would delay it until the one before is acknowledged.
 */
const REPLY_BATCH_SIZE = 4096;

/**
 * Drives a receiver: passes it the client's bytes and performs its steps.
 *
 * While the client does not read its replies, no step is performed and no input is read. That bounds memory.
 */
export function receive(options: ReceiveOptions): RunningReceiver {
  const { receiver, client, startDelivery, idleTimeout, report } = options;
  let delivery: Delivery | undefined;
  const replies = createWriteBuffer();
  let stalled = false;
  let closeReason: CloseReason | undefined;
  const { promise: closed, resolve } = deferred<CloseReason>();

  const idle = watchIdle(idleTimeout, () => {
    receiver.timedOut();
    finish();
  });
  client.source.listen({
    bytes: (bytes) => {
      receiver.fromClient(bytes);
      advance();
    },
    ended: () => {
      receiver.clientEnded();
      advance();
    },
  });
  client.sink.listen({
    drained: () => {
      stalled = false;
      idle.active();
      advance();
    },
    // The client could not learn whether a message is stored. It will send the message again.
    failed: () => close('aborted'),
  });
  queueMicrotask(advance);
  return {
    closed,
    stop: () => {
      receiver.stopping();
      finish();
    },
  };

  function advance(): void {
    while (closeReason === undefined && !stalled) {
      const step = receiver.next();
      if (step === undefined) {
        flush();
        break;
      }
      idle.active();
      perform(step);
    }
    if (closeReason !== undefined || stalled) client.source.pause();
    else client.source.read();
  }

  /** Performs the last steps, even if the client does not read: it may lose the closing reply. */
  function finish(): void {
    stalled = false;
    advance();
  }

  function perform(step: ReceiverStep): void {
    switch (step.type) {
      case 'reply':
        replies.push(step.bytes);
        if (replies.size() >= REPLY_BATCH_SIZE) flush();
        return;
      case 'open':
        attempt(() => {
          delivery = startDelivery(step.envelope);
          receiver.opened();
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
          receiver.stored();
        });
        return;
      case 'discard':
        delivery?.discard();
        return;
      case 'close':
        flush();
        close(step.reason);
        return;
    }
  }

  /** Calls a function that may fail. The failure is logged, and the receiver chooses the reply. */
  function attempt(action: () => void): void {
    try {
      action();
    } catch (error) {
      report.warning(`unable to store a message: ${explain('write', error)}`);
      delivery?.discard();
      receiver.failed();
    }
  }

  function flush(): void {
    if (replies.size() > 0) stalled = !client.sink.write(replies.take());
  }

  function close(reason: CloseReason): void {
    if (closeReason !== undefined) return;
    closeReason = reason;
    idle.stop();
    delivery?.discard();
    resolve(reason);
  }
}
