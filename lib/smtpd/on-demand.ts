import { deferred } from '../program/deferred.ts';
import { EXIT } from '../program/failure.ts';
import { createPrelude, type Introduction, type Prelude, type PreludeNotice } from '../smtp/prelude.ts';
import { REPLIES } from '../smtp/reply.ts';
import { createSilentPrelude } from '../smtp/silent-prelude.ts';
import { within } from '../stream/time.ts';
import { holdOpening } from './hold-opening.ts';
import { createPreludeFront } from './prelude-front.ts';
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
    if (introduction === undefined)
      return createOnDemand(options, createSilentPrelude(), false, tlsEnvironment);
    const prelude = createPrelude({
      introduction,
      hello,
      errorLimit: options.errorLimit,
      introduced: (line) => {
        hello = line;
      },
    });
    return createOnDemand(options, prelude, true, tlsEnvironment);
  };
}

/** @param isIntroduced whether the client gets a greeting from the prelude: then it does not get that of the real smtpd. */
function createOnDemand(
  { start, slot, idleTimeout, notice }: OnDemandOptions,
  prelude: Prelude,
  isIntroduced: boolean,
  tlsEnvironment: Parameters<StartSmtpd>[0],
): Smtpd {
  let environment = tlsEnvironment;
  const { promise: ended, resolve: settle } = deferred<SmtpdEnd>();
  const { promise: abort, resolve: startAbort } = deferred();
  let state: 'answering' | 'starting' | 'connected' | 'ended' = 'answering';
  let real: Smtpd | undefined;
  const front = createPreludeFront(prelude, idleTimeout, {
    needed: (hello) => {
      state = 'starting';
      void waitForSlot(hello);
    },
    notice,
    ended: () => {
      state = 'ended';
      settle({ status: EXIT.success });
    },
    closed: () => cancel({ status: EXIT.success }),
  });

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
    state = 'answering';
    prelude.refuse(isIntroduced ? REPLIES.noRoomNow : REPLIES.tooBusy);
    front.resume();
  }

  async function takeOver(smtpd: Smtpd, hello: string | undefined): Promise<void> {
    if (!isIntroduced) return connect(smtpd, NOTHING);
    const hellos = hello === undefined ? [] : [hello];
    const { outcome, forClient } = await holdOpening(smtpd, hellos, idleTimeout, abort);
    if (outcome.type === 'broken') return fail(smtpd, outcome.why);
    // The refusal is the reply to the command.
    if (outcome.type === 'refused') prelude.drop();
    connect(smtpd, forClient);
  }

  function connect(smtpd: Smtpd, forClient: Buffer): void {
    state = 'connected';
    front.connect(smtpd, forClient);
    void smtpd.ended.then(settle);
  }

  async function fail(smtpd: Smtpd, why: string | undefined): Promise<void> {
    const cause = why ?? describeEnd(await endAfterOutput(smtpd));
    smtpd.kill('SIGTERM');
    const { status, failure } = await endSmtpd(smtpd);
    end({ status, failure: failure ?? `smtpd failed in its opening: ${cause}` });
  }

  function end(how: SmtpdEnd): void {
    state = 'ended';
    front.end();
    settle(how);
  }

  /** Ends at once, because the session has closed one side or has sent a signal. */
  function cancel(how: SmtpdEnd): void {
    startAbort();
    if (real === undefined && state !== 'ended') end(how);
  }

  return {
    source: front.stream.source,
    sink: front.stream.sink,
    ended,
    renew: (next) => {
      if (state !== 'answering') return false;
      environment = next;
      front.active();
      return true;
    },
    kill: (signal) => {
      real?.kill(signal);
      cancel({ status: EXIT.systemCallFailed, signal });
    },
  };
}

const NOTHING = Buffer.alloc(0);
