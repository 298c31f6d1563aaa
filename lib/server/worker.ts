import cluster from 'node:cluster';
import { deferred } from '../program/deferred.ts';
import { EXIT } from '../program/failure.ts';
import type { Privileges } from '../program/privileges.ts';
import type { Log } from './log.ts';
import type { FromWorker, ToWorker } from './messages.ts';
import { createMetrics } from './metrics/metrics.ts';
import { createRemoteGate } from './remote-gate.ts';
import { createService, type ServiceOptions } from './service.ts';

/** What a worker works with. */
export interface WorkerParts {
  readonly environment: NodeJS.ProcessEnv;
  /** Who it is to become before it serves the first connection. */
  readonly privileges: Privileges;
  readonly log: Log;
}

/** Signals that the primary minds. A whole group may get them, by Ctrl-C, say. */
const PRIMARYS_SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1'] as const;

/**
 * Serves connections on the word of the primary process, until it says that it is enough.
 *
 * @returns the exit status.
 * @throws Failure when it cannot listen, or not become who it is to be.
 */
export async function runWorker(options: ServiceOptions, parts: WorkerParts): Promise<number> {
  const gate = createRemoteGate(send);
  const metrics = createMetrics();
  const service = createService(options, { ...parts, gate, metrics });
  const { promise, resolve } = deferred<number | Promise<never>>();

  for (const signal of PRIMARYS_SIGNALS) process.on(signal, () => {});
  process.on('message', hear);
  // What node:cluster says to a primary that is just gone fails here. Of its end we hear below.
  process.on('error', (error) => parts.log.debug('channel-error', { text: error.message }));
  cluster.worker?.on('disconnect', () => {
    // The primary is gone. node:cluster would end this process here and now, with all its sessions, if this
    // did not look like our own wish.
    if (cluster.worker !== undefined) cluster.worker.exitedAfterDisconnect = true;
    parts.log.warning('primary-gone');
    stop();
  });
  send({ type: 'started' });
  return await promise;

  function hear(message: ToWorker): void {
    if (message.type === 'start') start(message).catch((error) => resolve(Promise.reject(error)));
    else if (message.type === 'renew') service.renew(message.secrets);
    else if (message.type === 'count') {
      send({ type: 'counted', request: message.request, metrics: metrics.snapshot() });
    } else if (message.type === 'stop') stop();
    else gate.hear(message);
  }

  async function start({ secrets, listenPoints }: Extract<ToWorker, { type: 'start' }>): Promise<void> {
    service.renew(secrets);
    const listeners = await service.listen(listenPoints);
    parts.privileges.drop();
    service.open();
    send({ type: 'ready', listeners: listeners.map(({ port, name }) => ({ port, name })) });
  }

  function stop(): void {
    void service.stop().then(() => resolve(EXIT.success));
  }
}

function send(message: FromWorker): void {
  // Lost only when the primary is gone, of which we hear.
  if (process.connected) process.send?.(message, undefined, undefined, () => {});
}
