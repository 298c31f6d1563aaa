import type { Prelude, PreludeNotice, PreludeStep } from '../smtp/prelude.ts';
import type { ByteStream } from '../stream/byte-stream.ts';
import { createFront } from '../stream/front.ts';
import { watchIdle } from '../stream/time.ts';
import type { Smtpd } from './smtpd.ts';

/** What is behind a front whose client is answered by a prelude. */
export interface PreludeFrontHandler {
  /** A command needs smtpd. The prelude waits: for `refuse`, then `resume`; or for `connect`. */
  needed(hello: string | undefined): void;
  notice(notice: PreludeNotice): void;
  /** The prelude has ended the session. */
  ended(): void;
  /** The user of the stream has closed it. */
  closed(): void;
}

/** A stream whose client is answered by a prelude until it is connected to an smtpd. */
export interface PreludeFront {
  /** For the session. */
  readonly stream: ByteStream;
  /** The prelude goes on, after `needed`. */
  resume(): void;
  /** The idle timeout starts again. */
  active(): void;
  /** After `needed`: an smtpd takes over with all that the prelude has not consumed. The client first gets `bytes`. */
  connect(smtpd: Smtpd, bytes: Buffer): void;
  /** Ends the session. The client gets what was sent, and the end. */
  end(): void;
}

/**
 * Puts a prelude behind a front.
 *
 * @param idleTimeout how long the client may send no command, in milliseconds.
 */
export function createPreludeFront(
  prelude: Prelude,
  idleTimeout: number,
  handler: PreludeFrontHandler,
): PreludeFront {
  let state: 'answering' | 'waiting' | 'over' = 'answering';
  /** Nothing more is sent until the replies that were sent are taken. */
  let isFull = false;
  /** The step that waits for that. */
  let held: PreludeStep | undefined;
  let idle = watchIdle(idleTimeout, timedOut);
  const front = createFront({
    received: (bytes) => {
      // The client may send more until it has read the last reply. It is not kept.
      if (state === 'over') return true;
      prelude.fromClient(bytes);
      return advance();
    },
    drained: () => {
      isFull = false;
      if (advance()) front.proceed();
    },
    ended: () => {
      prelude.clientEnded();
      advance();
    },
    closed: handler.closed,
  });
  advance();

  /** Carries out the steps of the prelude. @returns whether it has processed all that it was given. */
  function advance(): boolean {
    while (state === 'answering') {
      const step = held ?? prelude.next();
      held = undefined;
      if (step === undefined) return true;
      if (isFull) {
        held = step;
        return false;
      }
      idle.active();
      if (step.type === 'to-client') isFull = !front.send(step.bytes);
      else if (step.type === 'notice') handler.notice(step);
      else if (step.type === 'end') {
        end();
        handler.ended();
      } else {
        state = 'waiting';
        idle.stop();
        handler.needed(step.hello);
      }
    }
    // After the end there is nothing left to wait for.
    return state === 'over';
  }

  function timedOut(): void {
    prelude.timedOut();
    advance();
  }

  function end(): void {
    state = 'over';
    idle.stop();
    front.end();
    // The session does not read while it waits to write.
    front.proceed();
  }

  return {
    stream: front.stream,
    resume: () => {
      state = 'answering';
      idle = watchIdle(idleTimeout, timedOut);
      if (advance()) front.proceed();
    },
    active: () => idle.active(),
    connect: (smtpd, bytes) => {
      state = 'over';
      front.send(bytes);
      front.connect(smtpd, prelude.takeRest());
    },
    end,
  };
}
