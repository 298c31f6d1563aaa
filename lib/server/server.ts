import { readFileSync } from 'node:fs';
import { deferred } from '../program/deferred.ts';
import { EXIT, Failure } from '../program/failure.ts';
import { checkProgram } from '../program/find.ts';
import { refuseInspector } from '../program/inspector.ts';
import { type Identity, privilegesOf } from '../program/privileges.ts';
import { createLimiter } from './connection/limiter.ts';
import { keepHeapSmall } from './heap.ts';
import { inheritedListeners, type ListenPoint } from './listen/listeners.ts';
import { announceReady } from './listen/readiness.ts';
import { createLog, type Log } from './log.ts';
import { formatLine, formatPrometheus } from './metrics/format.ts';
import { createSingleProcess } from './processes/processes.ts';
import { runWorker } from './processes/worker.ts';
import { createWorkerPool } from './processes/worker-pool.ts';
import { isWorker } from './processes/worker-process.ts';
import { createSecrets } from './secrets.ts';
import type { ServiceOptions } from './service.ts';

/** The command line of the server. */
export interface ServerOptions extends ServiceOptions {
  /** The name that messages begin with. */
  readonly program: string;
  /** 0 to 3, see `createLog`. */
  readonly verbosity: number;
  /** Where to listen; `inherited` for the sockets that the process was started with. */
  readonly listen: 'inherited' | readonly ListenPoint[];
  /** See `ConnectionLimits`. */
  readonly connections: number;
  readonly perAddress: number;
  /** How many processes serve. */
  readonly workers: number;
  /** Who those are to be that serve. */
  readonly identity: Identity;
  /** Where to tell what was counted; undefined for nowhere. */
  readonly metricsAt: { readonly host: string; readonly port: number } | undefined;
  /** See `announceReady`. */
  readonly printsPorts: boolean;
  readonly notifyDescriptor: number | undefined;
}

/**
 * Runs the server until it is told to end: one smtpd for each connection, TLS done here.
 *
 * With several workers, and where those who serve are to be another user, this process is the primary of
 * the others: it can read keys that they cannot.
 *
 * @returns the exit status.
 * @throws Failure (100, 111) when it cannot begin.
 */
export async function runServer(options: ServerOptions, environment: NodeJS.ProcessEnv): Promise<number> {
  refuseInspector();
  keepHeapSmall();
  const log = createLog(options.program, options.verbosity);
  const privileges = privilegesOf(options.identity);
  if (isWorker()) return runWorker(options, { environment, privileges, log });

  // No session could be served. As for one that disappears later, see startChild.
  if (!('host' in options.smtpd)) checkProgram(options.smtpd[0] ?? '', environment.PATH);
  const points = options.listen === 'inherited' ? inheritedListeners(environment) : options.listen;
  const secrets = createSecrets({
    environment,
    credentialOptions: options.credentials,
    ticketKeysFile: options.ticketKeysFile,
    report: log.reporter('secrets'),
  });
  const limiter = createLimiter({
    connections: withinDescriptors(options, log),
    perAddress: options.perAddress,
    waiting: options.backlog,
  });
  const parts = { environment, limiter, log };
  const isSolo = options.workers === 1 && privileges.isUnchanged;
  const processes = isSolo ? createSingleProcess(options, parts) : createWorkerPool(options, parts);

  const { promise: stopped, resolve: end } = deferred<number>();
  const stop = (): void => void processes.stop().then(() => end(EXIT.success));
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      log.info('stopping', { signal });
      stop();
    });
  }
  secrets.watch(processes.renew);
  process.on('SIGHUP', secrets.reload);
  process.on('SIGUSR1', () => {
    // Whoever asks wants to hear it, whatever else is said.
    const always = createLog(options.program, Math.max(2, options.verbosity));
    void processes.collect().then((metrics) => always.info('counters', formatLine(metrics)));
  });

  // First, because it may fail, and there is nobody yet who would have to go then.
  await serveMetricsAt(options, log, async () => formatPrometheus(await processes.collect()));
  const listeners = await Promise.race([
    processes.start(secrets.current(), points),
    stopped,
    processes.failed,
  ]);
  if (typeof listeners === 'number') return listeners;
  const ports = listeners.map(({ port }) => port);
  announceReady(ports, { ...options, environment, log });
  for (const { name } of listeners) log.info('listening', { on: name });
  return Promise.race([stopped, processes.failed]);
}

async function serveMetricsAt(
  { metricsAt }: ServerOptions,
  log: Log,
  collect: () => Promise<string>,
): Promise<void> {
  if (metricsAt === undefined) return;
  // Only here: few ask for it, and node:http is large.
  const { serveMetrics } = await import('./metrics/http.ts');
  const { port } = await serveMetrics(metricsAt.host, metricsAt.port, collect, log.reporter('metrics'));
  log.info('metrics', { port });
}

/** Descriptors that are not for sessions: ours, and those of connections that wait or are refused. */
const RESERVE = 200;

/** Of a session: the client, and the two pipes of an smtpd; another two while a fresh one takes its place. */
const PER_SESSION = 3;
const PER_FRESH_SESSION = 5;

/**
 * How many connections can be served at once: as many as were asked for, if the limit of the system on
 * descriptors allows it. Beyond that the system would refuse connections in ways that no client understands.
 */
function withinDescriptors({ connections, backlog, terms }: ServerOptions, log: Log): number {
  const limit = descriptorLimit();
  const each = terms.fresh ? PER_FRESH_SESSION : PER_SESSION;
  const most = Math.floor((limit - RESERVE - backlog) / each);
  if (connections <= most) return connections;
  if (most < 1) throw new Failure(EXIT.systemCallFailed, `unable to begin: ${limit} descriptors are too few`);
  log.warning('limits', {
    text: `${connections} connections at once would need ${connections * each + RESERVE + backlog} descriptors`,
    descriptors: limit,
    connections: most,
  });
  return most;
}

/** How many descriptors this process may have; Infinity where the system does not tell. */
function descriptorLimit(): number {
  try {
    const soft = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1];
    return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
