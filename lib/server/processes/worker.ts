import { deferred } from '../../program/deferred.ts';
import { EXIT } from '../../program/failure.ts';
import type { Privileges } from '../../program/privileges.ts';
import type { Log } from '../log.ts';
import { createMetrics } from '../metrics/metrics.ts';
import { createService, type ServiceOptions } from '../service.ts';
import { openChannelToPrimary } from './channel.ts';
import type { FromWorker, ToWorker } from './messages.ts';
import { createRemoteLimiters } from './remote-limiter.ts';
import { openChannelSocket } from './worker-process.ts';

/** What a worker needs from its process. */
export interface WorkerParts {
  readonly environment: NodeJS.ProcessEnv;
  /** The user and group to change to before anything else. */
  readonly privileges: Privileges;
  readonly log: Log;
}

/** Signals that the primary handles. The whole process group may receive them, for example by Ctrl-C. */
const PRIMARY_SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1'] as const;

/**
 * Serves connections for the primary process, until the primary stops it or exits.
 *
 * @returns the exit status.
 * @throws Failure when it cannot listen, or cannot change user or group.
 */
export async function runWorker(options: ServiceOptions, parts: WorkerParts): Promise<number> {
  for (const signal of PRIMARY_SIGNALS) process.on(signal, () => {});
  // Safe this early: the sockets are bound already, and keys come from the primary.
  parts.privileges.drop();
  const { promise, resolve } = deferred<number | Promise<never>>();
  const channel = openChannelToPrimary(openChannelSocket(), {
    received: (message) => receive(message as ToWorker),
    closed: () => {
      parts.log.warning('primary-gone');
      stop();
    },
  });
  const limiters = createRemoteLimiters(send);
  const metrics = createMetrics();
  const service = createService(options, { ...parts, ...limiters, metrics });
  return await promise;

  function send(message: FromWorker): void {
    channel.send(message);
  }

  function receive(message: ToWorker): void {
    if (message.type === 'start') start(message).catch((error) => resolve(Promise.reject(error)));
    else if (message.type === 'renew') service.renew(message.secrets);
    else if (message.type === 'learn') void service.learn();
    else if (message.type === 'collect') send({ type: 'collected', metrics: metrics.snapshot() });
    else if (message.type === 'stop') stop();
    else limiters.receive(message);
  }

  async function start({ secrets, listenPoints }: Extract<ToWorker, { type: 'start' }>): Promise<void> {
    service.renew(secrets);
    // First, see `createSingleProcess`. Other workers serve the connections meanwhile.
    await service.learn();
    const listeners = await service.listen(listenPoints);
    service.open();
    send({ type: 'ready', listeners: listeners.map(({ port, name }) => ({ port, name })) });
  }

  function stop(): void {
    void service.stop().then(() => resolve(EXIT.success));
  }
}
