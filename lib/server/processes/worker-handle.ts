import type { ChildProcess } from 'node:child_process';
import { deferred } from '../../program/deferred.ts';
import { errorCode } from '../../program/failure.ts';
import { after } from '../../stream/time.ts';
import type { Limiter } from '../connection/limiter.ts';
import type { ListenerName } from '../listen/listeners.ts';
import type { SharedSocket } from '../listen/shared-sockets.ts';
import type { Log } from '../log.ts';
import { type MetricsSnapshot, mergeSnapshots } from '../metrics/snapshot.ts';
import type { SecretsSnapshot } from '../secrets.ts';
import { openChannelToWorker } from './channel.ts';
import { type FromWorker, isFromWorker, type ToWorker } from './messages.ts';
import { openWorkerSlots } from './remote-limiter.ts';
import { channelOf, socketDescriptor, startWorkerProcess } from './worker-process.ts';

/** What a worker is started with. */
export interface WorkerStart {
  /** Its environment. */
  readonly environment: NodeJS.ProcessEnv;
  readonly sockets: readonly SharedSocket[];
  readonly secrets: SecretsSnapshot;
  /** Counts its connections, with those of the other workers. */
  readonly limiter: Limiter;
  readonly log: Log;
}

/** How a worker ended: its exit status, the signal, or the error of the system when it could not be started. */
export type WorkerEnd = number | string;

/** A worker process, as the primary sees it. */
export interface WorkerHandle {
  /** Its process, undefined when it could not be started. */
  readonly pid: number | undefined;
  /** Settles when it accepts connections, with its listeners in the order of the sockets. */
  readonly ready: Promise<readonly ListenerName[]>;
  /** Settles when the process has ended. Never rejects. */
  readonly ended: Promise<WorkerEnd>;
  /** Has it use other keys and certificates. */
  renew(secrets: SecretsSnapshot): void;
  /** What it has counted: now, or the last that it sent when it takes longer than two seconds to answer. */
  count(): Promise<MetricsSnapshot>;
  /** What it had counted when it sent that last. */
  lastCount(): MetricsSnapshot;
  /** Shuts it down gracefully; a second time: without waiting for its sessions. */
  stop(): void;
  /** Ends it now. @param why for a warning; undefined for none. */
  kill(why?: string): void;
}

/** The question what it has counted. */
interface Question {
  readonly answer: Promise<MetricsSnapshot>;
  /** Answers with what is known. */
  settle(): void;
}

/** How long a worker may take to send what it has counted, in milliseconds. */
const COUNT_TIMEOUT = 2000;

/** How long a worker may run on without its channel, in milliseconds. */
const CHANNEL_CLOSED_TIMEOUT = 1000;

/**
 * The invalid message with this number ends the worker, which may have been taken over by a client. Not the first:
 * its sessions end with it.
 */
const MOST_INVALID_MESSAGES = 10;

/**
 * Starts a worker process and has it listen.
 *
 * A worker that was taken over by a client can do nothing here but what its messages are for, and the memory that
 * it can take is bounded: its messages are read only while it reads the answers, it has the places that the limiter
 * has given it, and of what it counts only known families are kept.
 */
export function startWorker({ environment, sockets, secrets, limiter, log }: WorkerStart): WorkerHandle {
  const { promise: ready, resolve: becomeReady } = deferred<readonly ListenerName[]>();
  const { promise: ended, resolve: end } = deferred<WorkerEnd>();
  /** What it was asked and has not answered yet. */
  let question: Question | undefined;
  let counted: MetricsSnapshot = {};
  let invalid = 0;
  /** Secrets that are to be sent when the worker has read what was sent before. */
  let nextSecrets: SecretsSnapshot | undefined;

  const child = tryToStart();
  const pid = child?.pid;
  const socket = child === undefined ? undefined : channelOf(child);
  const channel =
    socket === undefined
      ? undefined
      : openChannelToWorker(socket, { received, cleared: sendSecrets, closed: channelClosed });
  const desk = openWorkerSlots(limiter, send);
  void ended.then(() => {
    channel?.close();
    desk.close();
    question?.settle();
  });
  send({
    type: 'start',
    secrets,
    listenPoints: sockets.map(({ name, label }, index) => ({
      descriptor: socketDescriptor(index),
      name,
      label,
    })),
  });

  function tryToStart(): ChildProcess | undefined {
    try {
      const started = startWorkerProcess(
        environment,
        sockets.map(({ descriptor }) => descriptor),
      );
      started.on('exit', (status, signal) => end(signal ?? status ?? 'unknown'));
      started.on('error', (error) => {
        if (started.pid === undefined) end(errorCode(error));
      });
      return started;
    } catch (error) {
      end(errorCode(error));
      return undefined;
    }
  }

  function send(message: ToWorker): void {
    channel?.send(message);
  }

  function sendSecrets(): void {
    if (nextSecrets !== undefined) send({ type: 'renew', secrets: nextSecrets });
    nextSecrets = undefined;
  }

  function received(message: unknown): void {
    if (isFromWorker(message) && take(message)) return;
    invalid += 1;
    if (invalid > MOST_INVALID_MESSAGES) return;
    log.warning('worker-message', { worker: pid, text: 'invalid message' });
    if (invalid === MOST_INVALID_MESSAGES) kill('it has sent too many invalid messages');
  }

  /** @returns false when the message is not valid now. */
  function take(message: FromWorker): boolean {
    if (message.type === 'ready') {
      if (message.listeners.length !== sockets.length) return false;
      becomeReady(message.listeners);
      return true;
    }
    if (message.type !== 'counted') return desk.hear(message);
    if (question === undefined) return false;
    // Of families that are not known nothing is kept.
    counted = mergeSnapshots([message.metrics]);
    question.settle();
    question = undefined;
    return true;
  }

  function channelClosed(): void {
    // The channel of a worker that ends closes a moment before.
    const limit = after(CHANNEL_CLOSED_TIMEOUT);
    void limit.passed.then(() => kill('it has closed the channel'));
    void ended.then(limit.cancel);
  }

  function ask(): Question {
    const { promise, resolve } = deferred<MetricsSnapshot>();
    const settle = (): void => resolve(counted);
    const limit = after(COUNT_TIMEOUT);
    void limit.passed.then(settle);
    void promise.then(limit.cancel);
    send({ type: 'count' });
    return { answer: promise, settle };
  }

  function kill(why?: string): void {
    if (why !== undefined) log.warning('worker-killed', { worker: pid, text: why });
    child?.kill('SIGKILL');
  }

  return {
    pid,
    ready,
    ended,
    renew: (next) => {
      nextSecrets = next;
      if (channel?.isClear() !== false) sendSecrets();
    },
    count: () => {
      // One at a time: questions to a worker that does not answer cannot pile up.
      question ??= ask();
      return question.answer;
    },
    lastCount: () => counted,
    stop: () => send({ type: 'stop' }),
    kill,
  };
}
