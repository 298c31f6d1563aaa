import { createCollection } from '../../program/collection.ts';
import { deferred } from '../../program/deferred.ts';
import { EXIT } from '../../program/failure.ts';
import { REPLIES } from '../../smtp/reply.ts';
import {
  createRouting,
  type RoutingNotice,
  type RoutingOptions,
  type RoutingStep,
} from '../../smtp/routing.ts';
import { createFront } from '../../stream/front.ts';
import { createHeldWriter, type HeldWriter } from '../../stream/held-writer.ts';
import { type IdleWatch, watchIdle } from '../../stream/time.ts';
import { endAfterOutput, endSmtpd, type Smtpd, type SmtpdEnd } from '../smtpd.ts';
import type { Reached } from './attempt.ts';
import { formatFailure } from './failure.ts';
import { type DestinationRequest, reachDestination } from './reach-destination.ts';
import type { RelayDestination } from './route-table.ts';

/**
 * How many servers a session may be leaving when it connects to the next. A server, or a program, that does not end takes
 * twice `GRACE`, and a client can lead its mail from one to another as fast as they reply.
 */
const LEAVING_LIMIT = 4;

/** The settings of a relay. */
export interface RelayedOptions extends Omit<DestinationRequest, 'name' | 'abort'> {
  /** See `RoutingOptions`. */
  readonly to: RoutingOptions<RelayDestination>['to'];
  /** In the greeting and, with routes, in replies to EHLO. */
  readonly greetingName: string;
  /** The name of this host, in place of a client's that has given none. */
  readonly localName: string;
  /** How long the client may send no command while there is no server, in milliseconds. */
  readonly idleTimeout: number;
  /** See `RoutingOptions`. */
  readonly errorLimit: number;
  notice(notice: RoutingNotice): void;
}

/**
 * An smtpd that is a remote server, or one or another of several: see `createRouting`. The greeting is ours.
 *
 * When a server is needed it is reached, and the client introduced to it by the client's own name. A server that cannot be
 * had is the reply to the command that needs it. If it was so with the last one, or it was lost, the status is 111.
 *
 * Memory: of the client, what it sends in one piece; of the server, see `createEnvelope`.
 */
export function startRelayed(options: RelayedOptions): Smtpd {
  const { promise: ended, resolve: settle } = deferred<SmtpdEnd>();
  const { promise: abort, resolve: startAbort } = deferred();
  const leaving = createCollection<Smtpd>();
  const { to } = options;
  const routing = createRouting<RelayDestination>({
    name: options.greetingName,
    protocol: 'only' in to && to.only.isLmtp ? 'lmtp' : 'smtp',
    to,
    errorLimit: options.errorLimit,
  });
  let state: 'open' | 'connecting' | 'over' = 'open';
  let smtpd: Smtpd | undefined;
  /** The name of the last destination. */
  let current: string | undefined;
  /** See `Smtpd`. */
  let pid: number | undefined;
  let smtpdEnded = false;
  /** For smtpd. */
  let output: HeldWriter | undefined;
  /** The session takes no more. */
  let isFull = false;
  /** The last server could not be had, or was lost. */
  let hasFailed = false;
  let killedBy: NodeJS.Signals | undefined;
  /** Settles when the last server is reached, or nothing is left of the attempt. */
  let connecting: Promise<void> | undefined;
  let idle: IdleWatch | undefined;
  /** Who is waited for with a limit. */
  let waitsFor: 'client' | 'server' | undefined;
  const front = createFront({
    received: (bytes) => {
      // The client may send more until it has read the last reply. It is not kept.
      if (state === 'over') return true;
      routing.fromClient(bytes);
      advance();
      return wantsClient();
    },
    drained: () => {
      isFull = false;
      smtpd?.source.read();
      advanceAndProceed();
    },
    ended: () => {
      routing.clientEnded();
      advanceAndProceed();
    },
    closed: finish,
  });
  advance();

  function wantsClient(): boolean {
    return state === 'over' || (!isFull && output?.isFull() !== true && routing.wantsClient());
  }

  function advanceAndProceed(): void {
    advance();
    if (wantsClient()) front.proceed();
  }

  function advance(): void {
    let isActive = false;
    while (state !== 'over' && !isFull) {
      const step = routing.next();
      if (step !== undefined) {
        isActive ||= step.type !== 'to-client' || endsReply(step.bytes);
        carryOut(step);
      } else if (smtpdEnded) {
        smtpdEnded = false;
        routing.smtpdEnded(killedBy === undefined ? REPLIES.smtpdFailed : REPLIES.shuttingDown);
      } else break;
    }
    limitWait(isActive);
  }

  /**
   * Limits how long the client may send no command without a server, and how long a server that is needed may not reply.
   *
   * @param isActive whether either has done more than to send a part of it.
   */
  function limitWait(isActive: boolean): void {
    const before = waitsFor;
    const isPassing = smtpd !== undefined && routing.wantsClient();
    waitsFor = state !== 'open' || isPassing ? undefined : smtpd === undefined ? 'client' : 'server';
    if (waitsFor === before && !isActive) return;
    idle?.stop();
    if (waitsFor === undefined) return;
    idle = watchIdle(waitsFor === 'client' ? options.idleTimeout : options.replyTimeout, () => {
      routing.timedOut();
      advanceAndProceed();
    });
  }

  function carryOut(step: RoutingStep<RelayDestination>): void {
    switch (step.type) {
      case 'to-client':
        isFull = !front.send(step.bytes);
        if (isFull) smtpd?.source.pause();
        return;
      case 'to-smtpd':
        return output?.write(step.bytes);
      case 'disconnect':
        // All of its replies have come: this cannot be taken for a part of a message.
        quit();
        return leave();
      case 'connect':
        connecting = connect(step.destination, nameIn(step.hello) ?? options.localName);
        return;
      case 'end-smtpd':
        return output?.end();
      case 'notice':
        return options.notice(step);
      case 'end':
        finish();
    }
  }

  async function connect(destination: RelayDestination, name: string): Promise<void> {
    state = 'connecting';
    current = destination.name;
    pid = undefined;
    while (leaving.size() >= LEAVING_LIMIT) await Promise.race(leaving.all().map((each) => each.ended));
    if (state !== 'connecting') return;
    const result = await reachDestination(destination, { ...options, name, abort });
    if (state !== 'connecting') {
      if (result.type === 'failed') return;
      result.reached.smtpd.kill('SIGKILL');
      return void (await result.reached.smtpd.ended);
    }
    state = 'open';
    hasFailed = result.type === 'failed';
    if (result.type === 'failed') routing.refuse(formatFailure(result.failure));
    else {
      pid = result.reached.smtpd.pid;
      listenTo(result.reached, destination);
      routing.connected(result.reached.hello);
    }
    advance();
    // After the reply to EHLO, if that is one.
    if (result.type === 'reached') startReading(result.reached);
    advanceAndProceed();
  }

  function listenTo({ smtpd: next }: Reached, { name }: RelayDestination): void {
    smtpd = next;
    smtpdEnded = false;
    const writer = createHeldWriter(next.sink);
    output = writer;
    next.source.listen({
      bytes: (bytes) => {
        routing.fromSmtpd(bytes);
        advanceAndProceed();
      },
      ended: () => void endAfterOutput(next).then((end) => lose(next, name, end)),
    });
    next.sink.listen({
      drained: () => {
        if (smtpd !== next) return;
        writer.drained();
        if (wantsClient()) front.proceed();
      },
      // Its source ends too, and has the last reply.
      failed() {},
    });
  }

  function startReading({ smtpd: next, rest }: Reached): void {
    if (smtpd !== next) return;
    const early = rest();
    if (early.length > 0) routing.fromSmtpd(early);
    if (!isFull) next.source.read();
  }

  /** The server sends no more. */
  function lose(lost: Smtpd, name: string, end: SmtpdEnd | undefined): void {
    if (smtpd !== lost) return;
    hasFailed = end !== undefined && end.status !== EXIT.success;
    if (end?.failure !== undefined) options.report.warning(`unable to relay to ${name}: ${end.failure}`);
    smtpdEnded = true;
    advanceAndProceed();
  }

  function quit(): void {
    if (output?.isFull() !== true) output?.write(QUIT);
  }

  /** Ends the session with the server, whose reply does not matter. */
  function leave(): void {
    if (smtpd === undefined) return;
    const last = smtpd;
    // It has not read all, whatever it has replied. The client's next bytes may overwrite what waits for it.
    if (output?.isFull() === true) last.sink.close();
    smtpd = undefined;
    output = undefined;
    smtpdEnded = false;
    void endSmtpd(last).then(leaving.add(last));
  }

  /** The session is over, or its user has closed one side. */
  function finish(): void {
    if (state === 'over') return;
    state = 'over';
    idle?.stop();
    startAbort();
    // After a signal, the end of the output follows the reason for it.
    if (killedBy === undefined) front.end();
    if (routing.mayQuit()) quit();
    leave();
    const status = hasFailed ? EXIT.systemCallFailed : EXIT.success;
    void Promise.all([connecting, ...leaving.all().map((each) => each.ended)]).then(() => {
      settle(killedBy === undefined ? { status } : { status: EXIT.systemCallFailed, signal: killedBy });
      front.end();
    });
  }

  return {
    ...front.stream,
    get label() {
      return current ?? ('only' in to ? to.only.name : 'routes');
    },
    get pid() {
      return pid;
    },
    ended,
    kill: (signal) => {
      killedBy ??= signal;
      for (const each of leaving.all()) each.kill(signal);
      smtpd?.kill(signal);
      // A server may complete its last reply.
      if (smtpd === undefined || signal === 'SIGKILL') finish();
    },
  };
}

const QUIT = Buffer.from('QUIT\r\n');
const LF = 0x0a;
const HYPHEN = 0x2d;

/** Whether lines of replies, with their line endings, end with the last line of one. */
function endsReply(lines: Uint8Array): boolean {
  return lines[lines.lastIndexOf(LF, -2) + 1 + 3] !== HYPHEN;
}

/** The name in "EHLO name"; undefined if there is none. */
function nameIn(hello: string | undefined): string | undefined {
  return /^\s*\S+\s+(\S.*?)\s*$/s.exec(hello ?? '')?.[1];
}
