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

/** A worker that ran for less than this is replaced after this delay, others at once; in milliseconds. */
const RESTART_DELAY = 1000;

/** The server exits when so many consecutive workers exited before they were ready, and none is serving. */
const MAX_FAILED_STARTS = 5;

/**
 * How long after the grace period a worker may take to exit, in milliseconds. A healthy worker needs half of it, for
 * an smtpd that has to be killed; a suspended or stuck one never exits.
 */
const EXIT_TIMEOUT = 15_000;

/**
 * Creates a pool of worker processes. This process, the primary, opens the listening sockets, reads keys and
 * certificates and enforces the limits; it never reads a byte of a client. A worker that exits is replaced; while
 * there is none, connections wait in the backlog of the sockets.
 *
 * @param workers how many processes.
 * @param grace how long sessions may continue when the pool is stopped, in milliseconds.
 */
export function createWorkerPool(
  { workers, grace }: { readonly workers: number; readonly grace: number },
  parts: ProcessParts,
): ServerProcesses {
  const { log } = parts;
  const running = new Set<WorkerHandle>();
  const serving = new Set<WorkerHandle>();
  const own = createMetrics();
  const { promise: failed, resolve: reportFailure } = deferred<number>();
  const { promise: ready, resolve: becomeReady } = deferred<readonly ListenerName[]>();
  const { promise: empty, resolve: becomeEmpty } = deferred();
  /** The counters of workers that have exited. */
  let endedMetrics: MetricsSnapshot = {};
  let secrets: SecretsSnapshot | undefined;
  let sockets: readonly SharedSocket[] = [];
  let wasReady = false;
  let isStopping = false;
  let failedStarts = 0;

  function startOne(): void {
    if (isStopping || secrets === undefined) return;
    const startedAt = process.uptime();
    const worker = startWorker({
      ...parts,
      environment: withoutSystemdVariables(parts.environment),
      sockets,
      secrets,
    });
    running.add(worker);
    void worker.ready.then((listeners) => {
      if (running.has(worker)) addServing(worker, listeners);
    });
    void worker.ended.then((end) => {
      running.delete(worker);
      endedMetrics = mergeSnapshots([endedMetrics, lastingPart(worker.lastMetrics())]);
      if (!isStopping) replace(worker, end, (process.uptime() - startedAt) * 1000);
      if (running.size === 0 && isStopping) becomeEmpty();
    });
  }

  function addServing(worker: WorkerHandle, listeners: readonly ListenerName[]): void {
    serving.add(worker);
    failedStarts = 0;
    log.info('worker-ready', { worker: worker.pid });
    if (serving.size < workers || wasReady) return;
    wasReady = true;
    becomeReady(listeners);
  }

  /** @param lifetime of the worker that has exited, in milliseconds. */
  function replace(worker: WorkerHandle, end: WorkerEnd, lifetime: number): void {
    if (!wasReady) return failAtStart(worker, end);
    log.warning('worker-ended', { worker: worker.pid, end });
    if (!serving.delete(worker)) failedStarts += 1;
    if (serving.size === 0 && failedStarts >= MAX_FAILED_STARTS) {
      log.fatal('workers-gone', {
        text: `${failedStarts} consecutive workers exited before they were ready`,
      });
      return fail(EXIT.systemCallFailed);
    }
    if (lifetime >= RESTART_DELAY) startOne();
    else void after(RESTART_DELAY).passed.then(startOne);
  }

  function failAtStart(worker: WorkerHandle, end: WorkerEnd): void {
    // A worker that exits with a failure has logged the reason.
    if (typeof end === 'number' && end !== EXIT.success) return fail(end);
    log.fatal('worker-ended', { worker: worker.pid, end });
    fail(EXIT.systemCallFailed);
  }

  /** Kills all workers at once: none of them has a session to lose. */
  function fail(status: number): void {
    isStopping = true;
    for (const worker of running) worker.kill();
    reportFailure(status);
  }

  function killRemaining(): void {
    for (const worker of running) worker.kill('did not exit in time');
  }

  return {
    failed,
    start: async (initial, points) => {
      secrets = initial;
      sockets = await openSharedSockets(points);
      for (let index = 0; index < workers; index++) startOne();
      return ready;
    },
    renew: (next) => {
      secrets = next;
      for (const worker of running) worker.renew(next);
    },
    learn: () => {
      for (const worker of running) worker.learn();
    },
    collect: async () => {
      own.setWaiting(parts.limiter.waiting());
      const all = await Promise.all([...running].map((worker) => worker.collect()));
      return mergeSnapshots([own.snapshot(), endedMetrics, ...all]);
    },
    stop: () => {
      const timeout = (isStopping ? 0 : grace) + EXIT_TIMEOUT;
      if (!isStopping) for (const socket of sockets) socket.close();
      isStopping = true;
      if (running.size === 0) becomeEmpty();
      for (const worker of running) worker.stop();
      void after(timeout).passed.then(killRemaining);
      return empty;
    },
  };
}
