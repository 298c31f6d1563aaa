import { deferred } from '../../program/deferred.ts';
import { EXIT } from '../../program/failure.ts';
import { withoutSystemdVariables } from '../../program/systemd.ts';
import { after } from '../../stream/time.ts';
import type { ListenerName } from '../listen/listeners.ts';
import { openSharedSockets, type SharedSocket } from '../listen/shared-sockets.ts';
import { createMetrics } from '../metrics/metrics.ts';
import { lastingPart, type MetricsSnapshot, mergeSnapshots } from '../metrics/snapshot.ts';
import type { SecretsSnapshot } from '../secrets.ts';
import type { ProcessParts, ServerProcesses } from './processes.ts';
import { startWorker, type WorkerEnd, type WorkerHandle } from './worker-handle.ts';

/** A worker that ran for less than this is replaced after this long, in milliseconds; others at once. */
const RESTART_DELAY = 1000;

/** As many workers in a row may end before they are ready while none is: then the server gives up. */
const MOST_FAILED_STARTS = 5;

/**
 * How much longer than the time of grace a worker may take to end, in milliseconds. One that is in order needs
 * half of it, for an smtpd that has to be killed; one that is stopped or stuck never ends.
 */
const END_TIMEOUT = 15_000;

/**
 * Several processes that serve. This one, the primary, opens the listening sockets, reads keys and certificates
 * and keeps the limits; it never reads a byte of a client. A worker that ends is replaced, and connections wait in
 * the backlog of the sockets while there is none.
 *
 * @param workers how many.
 * @param grace how long sessions may go on when the pool is stopped, in milliseconds.
 */
export function createWorkerPool(
  { workers, grace }: { readonly workers: number; readonly grace: number },
  { environment, limiter, log }: ProcessParts,
): ServerProcesses {
  const running = new Set<WorkerHandle>();
  const serving = new Set<WorkerHandle>();
  const own = createMetrics();
  const { promise: failed, resolve: reportFailure } = deferred<number>();
  const { promise: ready, resolve: becomeReady } = deferred<readonly ListenerName[]>();
  const { promise: empty, resolve: becomeEmpty } = deferred();
  let departed: MetricsSnapshot = {};
  let secrets: SecretsSnapshot | undefined;
  let sockets: readonly SharedSocket[] = [];
  let wasReady = false;
  let isStopping = false;
  let failedStarts = 0;

  function startOne(): void {
    if (isStopping || secrets === undefined) return;
    const startedAt = process.uptime();
    const worker = startWorker({
      environment: withoutSystemdVariables(environment),
      sockets,
      secrets,
      limiter,
      log,
    });
    running.add(worker);
    void worker.ready.then((listeners) => {
      if (running.has(worker)) serves(worker, listeners);
    });
    void worker.ended.then((end) => {
      running.delete(worker);
      departed = mergeSnapshots([departed, lastingPart(worker.lastCount())]);
      if (!isStopping) replace(worker, end, (process.uptime() - startedAt) * 1000);
      if (running.size === 0 && isStopping) becomeEmpty();
    });
  }

  function serves(worker: WorkerHandle, listeners: readonly ListenerName[]): void {
    serving.add(worker);
    failedStarts = 0;
    log.info('worker-ready', { worker: worker.pid });
    if (serving.size < workers || wasReady) return;
    wasReady = true;
    becomeReady(listeners);
  }

  /** @param lifetime of the worker that has ended, in milliseconds. */
  function replace(worker: WorkerHandle, end: WorkerEnd, lifetime: number): void {
    if (!wasReady) return failAtStart(worker, end);
    log.warning('worker-ended', { worker: worker.pid, end });
    if (!serving.delete(worker)) failedStarts += 1;
    if (serving.size === 0 && failedStarts >= MOST_FAILED_STARTS) {
      log.fatal('workers-gone', { text: `${failedStarts} workers in a row ended before they were ready` });
      return fail(EXIT.systemCallFailed);
    }
    if (lifetime >= RESTART_DELAY) startOne();
    else void after(RESTART_DELAY).passed.then(startOne);
  }

  function failAtStart(worker: WorkerHandle, end: WorkerEnd): void {
    // One with a status of its own has written why.
    if (typeof end === 'number' && end !== EXIT.success) return fail(end);
    log.fatal('worker-ended', { worker: worker.pid, end });
    fail(EXIT.systemCallFailed);
  }

  /** Ends all, at once: none of them serves. */
  function fail(status: number): void {
    isStopping = true;
    for (const worker of running) worker.kill();
    reportFailure(status);
  }

  function killRest(): void {
    for (const worker of running) worker.kill('it did not end in time');
  }

  return {
    failed,
    start: async (first, points) => {
      secrets = first;
      sockets = await openSharedSockets(points);
      for (let index = 0; index < workers; index++) startOne();
      return ready;
    },
    renew: (next) => {
      secrets = next;
      for (const worker of running) worker.renew(next);
    },
    collect: async () => {
      own.setWaiting(limiter.waiting());
      const all = await Promise.all([...running].map((worker) => worker.count()));
      return mergeSnapshots([own.snapshot(), departed, ...all]);
    },
    stop: () => {
      const timeout = (isStopping ? 0 : grace) + END_TIMEOUT;
      if (!isStopping) for (const socket of sockets) socket.close();
      isStopping = true;
      if (running.size === 0) becomeEmpty();
      for (const worker of running) worker.stop();
      void after(timeout).passed.then(killRest);
      return empty;
    },
  };
}
