import type { ChildProcess } from 'node:child_process';
import { deferred } from '../../program/deferred.ts';
import { errorCode } from '../../program/failure.ts';
import { after } from '../../stream/time.ts';
import type { Limiters } from '../connection/limiter.ts';
import type { ListenerName } from '../listen/listeners.ts';
import type { SharedSocket } from '../listen/shared-sockets.ts';
import type { Log } from '../log.ts';
import { type MetricsSnapshot, mergeSnapshots } from '../metrics/snapshot.ts';
import type { SecretsSnapshot } from '../secrets.ts';
import { openChannelToWorker } from './channel.ts';
import { type FromWorker, isFromWorker, type ToWorker } from './messages.ts';
import { openWorkerSlots } from './remote-limiter.ts';
import { channelOf, socketDescriptor, startWorkerProcess } from './worker-process.ts';

/** What is needed to start a worker. */
export interface WorkerStart extends Limiters {
  /** The whole environment of the process. */
  readonly environment: NodeJS.ProcessEnv;
  readonly sockets: readonly SharedSocket[];
  readonly secrets: SecretsSnapshot;
  readonly log: Log;
}

/** How a worker ended: its exit status, the signal, or the error code when it could not be started. */
export type WorkerEnd = number | string;

/** A worker process, seen from the primary. */
export interface WorkerHandle {
  /** Its process id; undefined when it could not be started. */
  readonly pid: number | undefined;
  /** Settles when it accepts connections, with its listeners in the order of the sockets. */
  readonly ready: Promise<readonly ListenerName[]>;
  /** Settles when the process has exited. Never rejects. */
  readonly ended: Promise<WorkerEnd>;
  /** Sends it new keys and certificates. */
  renew(secrets: SecretsSnapshot): void;
  /** Makes it learn again how smtpd introduces itself. */
  learn(): void;
  /** Requests its metrics; gives the last that it sent when it takes longer than two seconds to answer. */
  collect(): Promise<MetricsSnapshot>;
  /** The last metrics that it sent. */
  lastMetrics(): MetricsSnapshot;
  /** Shuts it down gracefully; the second time, without waiting for its sessions. */
  stop(): void;
  /** Kills it (SIGKILL). @param why logged in a warning; undefined for no warning. */
  kill(why?: string): void;
}

/** A request for metrics that the worker has not answered yet. */
interface PendingCollect {
  readonly answer: Promise<MetricsSnapshot>;
  /** Settles `answer` with the last metrics that the worker sent. */
  settle(): void;
}

/** How long a worker may take to send its metrics, in milliseconds. */
const COLLECT_TIMEOUT = 2000;

/** How long a worker may keep running after its channel has closed, in milliseconds. */
const CHANNEL_CLOSED_TIMEOUT = 1000;

/**
 * After so many invalid messages a worker is killed, because a client may have compromised it. Not after the first:
 * its sessions end with it.
 */
const MAX_INVALID_MESSAGES = 10;

/**
 * Starts a worker process and makes it listen.
 *
 * A compromised worker can do no more to this process than its messages allow, and the memory that it can occupy
 * here is bounded: its messages are read only while it reads the answers, the limiter bounds its slots, and of its
 * metrics only known families are kept.
 */
export function startWorker(options: WorkerStart): WorkerHandle {
  const { environment, sockets, secrets, log } = options;
  const { promise: ready, resolve: becomeReady } = deferred<readonly ListenerName[]>();
  const { promise: ended, resolve: end } = deferred<WorkerEnd>();
  let pending: PendingCollect | undefined;
  let lastMetrics: MetricsSnapshot = {};
  let invalidMessages = 0;
  /** Secrets to send once the worker has read what was sent before. */
  let nextSecrets: SecretsSnapshot | undefined;

  const child = tryToStart();
  const pid = child?.pid;
  const socket = child === undefined ? undefined : channelOf(child);
  const channel =
    socket === undefined
      ? undefined
      : openChannelToWorker(socket, { received, cleared: sendSecrets, closed: channelClosed });
  const slots = openWorkerSlots(options, send);
  void ended.then(() => {
    channel?.close();
    slots.close();
    pending?.settle();
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
    if (isFromWorker(message) && accept(message)) return;
    invalidMessages += 1;
    if (invalidMessages > MAX_INVALID_MESSAGES) return;
    log.warning('worker-message', { worker: pid, text: 'invalid message' });
    if (invalidMessages === MAX_INVALID_MESSAGES) kill('sent too many invalid messages');
  }

  /** @returns false when the message is not valid now. */
  function accept(message: FromWorker): boolean {
    if (message.type === 'ready') {
      if (message.listeners.length !== sockets.length) return false;
      becomeReady(message.listeners);
      return true;
    }
    if (message.type !== 'collected') return slots.receive(message);
    if (pending === undefined) return false;
    // Merging drops unknown families.
    lastMetrics = mergeSnapshots([message.metrics]);
    pending.settle();
    pending = undefined;
    return true;
  }

  function channelClosed(): void {
    // The channel of a worker that exits closes a moment before 'exit'.
    const timer = after(CHANNEL_CLOSED_TIMEOUT);
    void timer.passed.then(() => kill('closed the channel'));
    void ended.then(timer.cancel);
  }

  function requestMetrics(): PendingCollect {
    const { promise, resolve } = deferred<MetricsSnapshot>();
    const settle = (): void => resolve(lastMetrics);
    const timer = after(COLLECT_TIMEOUT);
    void timer.passed.then(settle);
    void promise.then(timer.cancel);
    send({ type: 'collect' });
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
    learn: () => send({ type: 'learn' }),
    collect: () => {
      // One request at a time: they cannot accumulate for a worker that does not answer.
      pending ??= requestMetrics();
      return pending.answer;
    },
    lastMetrics: () => lastMetrics,
    stop: () => send({ type: 'stop' }),
    kill,
  };
}
