import { deferred } from '../../program/deferred.ts';
import { EXIT } from '../../program/failure.ts';
import type { Privileges } from '../../program/privileges.ts';
import type { Log } from '../log.ts';
import { createMetrics } from '../metrics/metrics.ts';
import { createService, type ServiceOptions } from '../service.ts';
import { openChannelToPrimary } from './channel.ts';
import type { FromWorker, ToWorker } from './messages.ts';
import { createRemoteLimiter } from './remote-limiter.ts';
import { openChannelSocket } from './worker-process.ts';

/** What a worker works with. */
export interface WorkerParts {
  readonly environment: NodeJS.ProcessEnv;
  /** Who it is to become before it does anything else. */
  readonly privileges: Privileges;
  readonly log: Log;
}

/** Signals that the primary handles. A whole group may get them, by Ctrl-C, for instance. */
const PRIMARY_SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1'] as const;

/**
 * Serves connections for the primary process, until that ends it or is gone.
 *
 * @returns the exit status.
 * @throws Failure when it cannot listen, or not become the other user.
 */
export async function runWorker(options: ServiceOptions, parts: WorkerParts): Promise<number> {
  for (const signal of PRIMARY_SIGNALS) process.on(signal, () => {});
  // The sockets are bound already, and keys come from the primary.
  parts.privileges.drop();
  const { promise, resolve } = deferred<number | Promise<never>>();
  const channel = openChannelToPrimary(openChannelSocket(), {
    received: (message) => receive(message as ToWorker),
    closed: () => {
      parts.log.warning('primary-gone');
      stop();
    },
  });
  const limiter = createRemoteLimiter(send);
  const metrics = createMetrics();
  const service = createService(options, { ...parts, limiter, metrics });
  return await promise;

  function send(message: FromWorker): void {
    channel.send(message);
  }

  function receive(message: ToWorker): void {
    if (message.type === 'start') start(message).catch((error) => resolve(Promise.reject(error)));
    else if (message.type === 'renew') service.renew(message.secrets);
    else if (message.type === 'count') send({ type: 'counted', metrics: metrics.snapshot() });
    else if (message.type === 'stop') stop();
    else limiter.hear(message);
  }

  async function start({ secrets, listenPoints }: Extract<ToWorker, { type: 'start' }>): Promise<void> {
    service.renew(secrets);
    const listeners = await service.listen(listenPoints);
    service.open();
    send({ type: 'ready', listeners: listeners.map(({ port, name }) => ({ port, name })) });
  }

  function stop(): void {
    void service.stop().then(() => resolve(EXIT.success));
  }
}
