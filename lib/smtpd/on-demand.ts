import { deferred } from '../program/deferred.ts';
import { EXIT } from '../program/failure.ts';
import {
  createPrelude,
  type Introduction,
  type Prelude,
  type PreludeNotice,
  type PreludeStep,
} from '../smtp/prelude.ts';
import { REPLIES } from '../smtp/reply.ts';
import { createFront } from '../stream/front.ts';
import { watchIdle, within } from '../stream/time.ts';
import { holdOpening } from './hold-opening.ts';
import { describeEnd, type StartSmtpd } from './program.ts';
import { endAfterOutput, endSmtpd, type Smtpd, type SmtpdEnd } from './smtpd.ts';

/** A slot for a running smtpd. */
export interface SmtpdSlot {
  /** Settles with `admitted` when there is room, with something else when there will be none. */
  readonly admission: Promise<string>;
  /** Releases the slot, or stops waiting for it. */
  release(): void;
}

/** The settings of smtpds that are started on demand. */
export interface OnDemandOptions {
  /** Starts the real smtpd. */
  readonly start: StartSmtpd;
  /** What is answered until then; undefined if it is not known: then the real smtpd is started at once. */
  introduction(): Introduction | undefined;
  /** Requests a slot for the real smtpd. */
  slot(): SmtpdSlot;
  /**
   * In milliseconds: how long the client may send no command, and the real smtpd may send nothing in its opening. A
   * command may wait for a slot for `SLOT_WAIT` of it.
   */
  readonly idleTimeout: number;
  /** See `PreludeOptions`. */
  readonly errorLimit: number;
  /** Called for each notice of the prelude. */
  notice(notice: PreludeNotice): void;
}

/**
 * The part of the idle timeout that a command may wait for a slot. After all of it, the dialogue in front would end the
 * session, as one whose smtpd does not reply.
 */
const SLOT_WAIT = 0.9;

/**
 * An smtpd that is started on demand. The client is answered from the introduction until it sends a command that needs
 * the real smtpd. That is started then, the client is introduced to it, and it takes over with that command.
 *
 * The real smtpd gets the environment of that moment, TLS included. The name that the client gave in cleartext is kept
 * for a client that gives none in TLS.
 *
 * If the real smtpd cannot be started, or fails in its opening, this smtpd ends with a failure.
 *
 * @param options of one connection.
 */
export function onDemand(options: OnDemandOptions): StartSmtpd {
  let hello: string | undefined;
  return (tlsEnvironment) => {
    const introduction = options.introduction();
    if (introduction === undefined) {
      return createOnDemand({ ...options, prelude: undefined }, tlsEnvironment);
    }
    const prelude = createPrelude({
      introduction,
      hello,
      errorLimit: options.errorLimit,
      introduced: (line) => {
        hello = line;
      },
    });
    return createOnDemand({ ...options, prelude }, tlsEnvironment);
  };
}

/** What one smtpd on demand consists of. */
interface Parts extends Pick<OnDemandOptions, 'start' | 'slot' | 'idleTimeout' | 'notice'> {
  /** Undefined to start the real smtpd at once. */
  readonly prelude: Prelude | undefined;
}

function createOnDemand(
  { start, prelude, slot, idleTimeout, notice }: Parts,
  tlsEnvironment: Parameters<StartSmtpd>[0],
): Smtpd {
  let environment = tlsEnvironment;
  const { promise: ended, resolve: settle } = deferred<SmtpdEnd>();
  const { promise: abort, resolve: startAbort } = deferred();
  let state: 'prelude' | 'starting' | 'connected' | 'ended' = 'prelude';
  let real: Smtpd | undefined;
  /** Nothing more is sent until the replies that were sent are taken. */
  let isFull = false;
  /** The step that waits for that. */
  let waiting: PreludeStep | undefined;
  let idle = watchIdle(prelude === undefined ? undefined : idleTimeout, timedOut);
  /** Without a prelude: what the client has sent before the real smtpd was there. */
  const early: Buffer[] = [];
  const front = createFront({
    received: (bytes) => {
      // The client may send more until it has read the last reply. It is not kept.
      if (state === 'ended') return true;
      if (prelude === undefined) early.push(Buffer.from(bytes));
      else prelude.fromClient(bytes);
      return advance();
    },
    drained: () => {
      isFull = false;
      if (advance()) front.proceed();
    },
    ended: () => {
      prelude?.clientEnded();
      advance();
    },
    closed: () => cancel({ status: EXIT.success }),
  });
  if (prelude === undefined) startReal(undefined);
  else advance();

  /** Carries out the steps of the prelude. @returns whether it has processed all that it was given. */
  function advance(): boolean {
    while (state === 'prelude') {
      const step = waiting ?? prelude?.next();
      waiting = undefined;
      if (step === undefined) return true;
      if (isFull) {
        waiting = step;
        return false;
      }
      idle.active();
      if (step.type === 'to-client') isFull = !front.send(step.bytes);
      else if (step.type === 'smtpd-needed') startReal(step.hello);
      else if (step.type === 'notice') notice(step);
      else end({ status: EXIT.success });
    }
    // After the end there is nothing left to wait for.
    return state === 'ended';
  }

  function startReal(hello: string | undefined): void {
    state = 'starting';
    idle.stop();
    void waitForSlot(hello);
  }

  async function waitForSlot(hello: string | undefined): Promise<void> {
    const taken = slot();
    const admission = await within(idleTimeout * SLOT_WAIT, Promise.race([taken.admission, abort]));
    if (admission === 'admitted' && state === 'starting') {
      real = start(environment);
      void real.ended.then(taken.release);
      return takeOver(real, hello);
    }
    taken.release();
    if (state === 'starting') refuse();
  }

  /** There is no room for another smtpd. */
  function refuse(): void {
    if (prelude === undefined) {
      front.send(REPLIES.tooBusy);
      return end({ status: EXIT.success });
    }
    state = 'prelude';
    idle = watchIdle(idleTimeout, timedOut);
    prelude.refuse(REPLIES.noRoomNow);
    if (advance()) front.proceed();
  }

  async function takeOver(smtpd: Smtpd, hello: string | undefined): Promise<void> {
    if (prelude === undefined) return connect(smtpd, Buffer.concat(early));
    const { outcome, forClient } = await holdOpening(
      smtpd,
      hello === undefined ? [] : [hello],
      idleTimeout,
      abort,
    );
    if (outcome.type === 'broken') return fail(smtpd, outcome.why);
    // The refusal is the reply to the command.
    if (outcome.type === 'refused') prelude.drop();
    front.send(forClient);
    connect(smtpd, prelude.takeRest());
  }

  function connect(smtpd: Smtpd, first: Buffer): void {
    state = 'connected';
    front.connect(smtpd, first);
    void smtpd.ended.then(settle);
  }

  async function fail(smtpd: Smtpd, why: string | undefined): Promise<void> {
    const cause = why ?? describeEnd(await endAfterOutput(smtpd));
    smtpd.kill('SIGTERM');
    const { status, failure } = await endSmtpd(smtpd);
    end({ status, failure: failure ?? `smtpd failed in its opening: ${cause}` });
  }

  function timedOut(): void {
    prelude?.timedOut();
    advance();
  }

  function end(how: SmtpdEnd): void {
    state = 'ended';
    idle.stop();
    front.end();
    // The session does not read while it waits to write.
    front.proceed();
    settle(how);
  }

  /** Ends at once, because the session has closed one side or has sent a signal. */
  function cancel(how: SmtpdEnd): void {
    startAbort();
    if (real === undefined && state !== 'ended') end(how);
  }

  return {
    ...front.stream,
    ended,
    renew: (next) => {
      if (state !== 'prelude') return false;
      environment = next;
      return true;
    },
    kill: (signal) => {
      real?.kill(signal);
      cancel({ status: EXIT.systemCallFailed, signal });
    },
  };
}
