import { deferred } from '../../program/deferred.ts';
import type { Limiters, LocalLimiter } from '../connection/limiter.ts';
import type { ListenerName, ListenPoint } from '../listen/listeners.ts';
import type { Log } from '../log.ts';
import { createMetrics } from '../metrics/metrics.ts';
import type { MetricsSnapshot } from '../metrics/snapshot.ts';
import type { SecretsSnapshot } from '../secrets.ts';
import { createService, type ServiceOptions } from '../service.ts';

/** The processes that serve connections: this one, or workers. */
export interface ServerProcesses {
  /**
   * Starts listening and serving.
   *
   * @returns the listeners, in the order of the points.
   * @throws Failure when it cannot listen.
   */
  start(secrets: SecretsSnapshot, points: readonly ListenPoint[]): Promise<readonly ListenerName[]>;
  /** Replaces the keys and certificates in use. */
  renew(secrets: SecretsSnapshot): void;
  /** Learns again how smtpd introduces itself. */
  learn(): void;
  /** The metrics of all processes. */
  collect(): Promise<MetricsSnapshot>;
  /** Shuts down gracefully; the second time, without waiting for sessions. Settles when all is closed. */
  stop(): Promise<void>;
  /** Settles with an exit status when the server cannot continue. */
  readonly failed: Promise<number>;
}

/** What `ServerProcesses` are made from. */
export interface ProcessParts extends Limiters {
  readonly environment: NodeJS.ProcessEnv;
  readonly limiter: LocalLimiter;
  readonly log: Log;
}

/** Creates `ServerProcesses` that consist of this process alone. */
export function createSingleProcess(options: ServiceOptions, parts: ProcessParts): ServerProcesses {
  const metrics = createMetrics();
  const service = createService(options, { ...parts, metrics });
  return {
    start: async (secrets, points) => {
      service.renew(secrets);
      // First: connections that are accepted meanwhile would have no bound. The kernel has one, the backlog.
      await service.learn();
      const listeners = await service.listen(points);
      service.open();
      return listeners;
    },
    renew: service.renew,
    learn: () => void service.learn(),
    collect: () => {
      metrics.setWaiting(parts.limiter.waiting());
      return Promise.resolve(metrics.snapshot());
    },
    stop: service.stop,
    failed: deferred<number>().promise,
  };
}
