import cluster, { type Worker } from 'node:cluster';
import { deferred } from '../program/deferred.ts';
import { EXIT } from '../program/failure.ts';
import { after } from '../stream/time.ts';
import type { Crew, CrewParts } from './crew.ts';
import type { ListenerName, ListenPoint } from './listeners.ts';
import { type FromWorker, isFromWorker, type ToWorker } from './messages.ts';
import { createMetrics } from './metrics/metrics.ts';
import { lastingPart, type MetricsSnapshot, mergeSnapshots } from './metrics/snapshot.ts';
import { type GateDesk, openGateDesk } from './remote-gate.ts';
import type { SecretsSnapshot } from './secrets.ts';

/** A worker as the primary sees it. */
interface Hand {
  readonly worker: Worker;
  readonly desk: GateDesk;
  readonly begun: number;
  isReady: boolean;
  /** What it had counted when it was last asked. */
  counted: MetricsSnapshot;
}

/** A worker that lived no longer than this is not replaced at once, in milliseconds. */
const RESTART_DELAY = 1000;

/** As many may end before they listen, one after the other, while none does: then somebody else must help. */
const MOST_STILLBORN = 5;

/**
 * How much longer than the time of grace a worker may take to end, in milliseconds. One that is in order needs
 * half of it, for an smtpd that has to be killed; one that is stopped or stuck would take for ever.
 */
const END_TIMEOUT = 15_000;

/** How long a worker may take to say what it has counted, in milliseconds. */
const COUNT_TIMEOUT = 2000;

/**
 * The crew of several processes. This one, the primary, opens the listening sockets, reads keys and
 * certificates and keeps the limits; it never reads a byte of a client. One that dies is replaced.
 *
 * @param workers how many.
 * @param grace how long sessions may go on when they are stopped, in milliseconds.
 */
export function createWorkers(
  { workers, grace }: { readonly workers: number; readonly grace: number },
  { gate, log }: CrewParts,
): Crew {
  // All accept from the same socket: to hand connections out one by one costs more than it is worth.
  cluster.schedulingPolicy = cluster.SCHED_NONE;
  const hands = new Map<number, Hand>();
  const requests = new Map<number, (metrics: MetricsSnapshot) => void>();
  const own = createMetrics();
  const { promise: failed, resolve: reportFailure } = deferred<number>();
  const { promise: ready, resolve: becomeReady } = deferred<readonly ListenerName[]>();
  const { promise: empty, resolve: becomeEmpty } = deferred();
  let departed: MetricsSnapshot = {};
  let secrets: SecretsSnapshot | undefined;
  let listenPoints: readonly ListenPoint[] = [];
  let listeners: readonly ListenerName[] = [];
  let wasReady = false;
  let isStopping = false;
  let lastRequest = 0;
  /** How many in a row have ended before they were ready. */
  let stillborn = 0;

  function hire(): void {
    if (isStopping) return;
    const worker = cluster.fork();
    const hand: Hand = {
      worker,
      desk: openGateDesk(gate, (message) => send(worker, message)),
      begun: process.uptime(),
      isReady: false,
      counted: {},
    };
    hands.set(worker.id, hand);
    worker.on('message', (message: unknown) => {
      if (isFromWorker(message)) hear(hand, message);
      else log.warning('worker-message', { worker: worker.process.pid, text: 'it makes no sense' });
    });
    // A message that it did not get, because it was gone. Its end is an event of its own.
    worker.on('error', (error) =>
      log.debug('worker-error', { worker: worker.process.pid, text: error.message }),
    );
    worker.on('exit', (status, signal) => {
      hands.delete(worker.id);
      hand.desk.close();
      departed = mergeSnapshots([departed, lastingPart(hand.counted)]);
      replace(hand, signal ?? status);
      if (hands.size === 0 && isStopping) becomeEmpty();
    });
  }

  function replace(hand: Hand, end: string | number): void {
    if (isStopping) return;
    if (!wasReady) return fail(typeof end === 'number' ? end : EXIT.systemCallFailed);
    log.warning('worker-ended', { worker: hand.worker.process.pid, end });
    stillborn = hand.isReady ? 0 : stillborn + 1;
    const isLast = ![...hands.values()].some((other) => other.isReady);
    if (isLast && (stillborn >= MOST_STILLBORN || !listenPoints.every(canBeOpenedAgain))) {
      // Whoever has started us has the sockets too, if they are inherited.
      log.fatal('workers-gone', { text: 'all workers have ended, and no other can take their place' });
      return fail(EXIT.systemCallFailed);
    }
    // Not before: while a worker has the socket of port 0, others get it by that name alone.
    if (isLast) listenPoints = withPorts(listenPoints, listeners);
    const lifetime = (process.uptime() - hand.begun) * 1000;
    if (lifetime >= RESTART_DELAY) hire();
    else void after(RESTART_DELAY).passed.then(hire);
  }

  function killRest(): void {
    for (const { worker } of hands.values()) {
      log.warning('worker-killed', { worker: worker.process.pid, text: 'it did not end in time' });
      worker.process.kill('SIGKILL');
    }
  }

  /** None of them serves, and what they would have to say of our end is not worth hearing. */
  function fail(status: number): void {
    isStopping = true;
    for (const { worker } of hands.values()) worker.process.kill('SIGKILL');
    reportFailure(status);
  }

  function hear(hand: Hand, message: FromWorker): void {
    if (message.type === 'started') {
      if (secrets !== undefined) send(hand.worker, { type: 'start', secrets, listenPoints });
    } else if (message.type === 'ready') {
      hand.isReady = true;
      listeners = message.listeners;
      log.info('worker-ready', { worker: hand.worker.process.pid });
      if ([...hands.values()].every((one) => one.isReady)) {
        wasReady = true;
        becomeReady(listeners);
      }
    } else if (message.type === 'counted') {
      hand.counted = message.metrics;
      requests.get(message.request)?.(message.metrics);
    } else hand.desk.hear(message);
  }

  async function count(hand: Hand): Promise<MetricsSnapshot> {
    lastRequest += 1;
    const request = lastRequest;
    const { promise, resolve } = deferred<MetricsSnapshot>();
    const limit = after(COUNT_TIMEOUT);
    requests.set(request, resolve);
    send(hand.worker, { type: 'count', request });
    const counted = await Promise.race([promise, limit.passed]);
    requests.delete(request);
    limit.cancel();
    return counted ?? hand.counted;
  }

  return {
    failed,
    start: (first, points) => {
      secrets = first;
      listenPoints = points;
      for (let index = 0; index < workers; index++) hire();
      return ready;
    },
    renew: (next) => {
      secrets = next;
      for (const { worker } of hands.values()) send(worker, { type: 'renew', secrets: next });
    },
    collect: async () => {
      own.setWaiting(gate.waiting());
      const all = await Promise.all([...hands.values()].map(count));
      return mergeSnapshots([own.snapshot(), departed, ...all]);
    },
    stop: () => {
      const patience = isStopping ? 0 : grace;
      isStopping = true;
      if (hands.size === 0) becomeEmpty();
      for (const { worker } of hands.values()) send(worker, { type: 'stop' });
      void after(patience + END_TIMEOUT).passed.then(killRest);
      return empty;
    },
  };
}

/**
 * Whether a socket can be opened once more: node:cluster closes those that no worker uses any more, and an
 * inherited descriptor does not come back then. Only 0 to 2 it spares.
 */
function canBeOpenedAgain(point: ListenPoint): boolean {
  return 'host' in point || point.descriptor <= 2;
}

/** The points with the ports that the system has chosen: a worker that comes later is to have the same. */
function withPorts(
  points: readonly ListenPoint[],
  listeners: readonly ListenerName[],
): readonly ListenPoint[] {
  return points.map((point, index) =>
    'host' in point ? { ...point, port: listeners[index]?.port ?? point.port } : point,
  );
}

function send(worker: Worker, message: ToWorker): void {
  if (worker.isConnected()) worker.send(message, () => {});
}
