import { readFileSync } from 'node:fs';
import { deferred } from '../program/deferred.ts';
import { RAISE_DESCRIPTOR_LIMIT } from '../program/explain.ts';
import { EXIT, Failure } from '../program/failure.ts';
import { checkProgram } from '../program/find.ts';
import { refuseInspector } from '../program/inspector.ts';
import { type Identity, privilegesOf } from '../program/privileges.ts';
import { watchCertificates } from './certificates.ts';
import { createLimiter } from './connection/limiter.ts';
import { keepHeapSmall } from './heap.ts';
import { inheritedListeners, type ListenPoint } from './listen/listeners.ts';
import { announceReady } from './listen/readiness.ts';
import { createLog, type Log } from './log.ts';
import { FAMILIES } from './metrics/families.ts';
import { formatLine, formatPrometheus } from './metrics/format.ts';
import { singleSeries } from './metrics/snapshot.ts';
import { createSingleProcess } from './processes/processes.ts';
import { runWorker } from './processes/worker.ts';
import { createWorkerPool } from './processes/worker-pool.ts';
import { isWorker } from './processes/worker-process.ts';
import { createSecrets, type SecretsOptions } from './secrets.ts';
import type { ServiceOptions } from './service.ts';

/** The options of the server. */
export interface ServerOptions extends ServiceOptions {
  /** The name that log lines begin with. */
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
  /** The user and group that connections are served as. */
  readonly identity: Identity;
  /** Where to serve metrics over HTTP; undefined for nowhere. */
  readonly metricsAt: { readonly host: string; readonly port: number } | undefined;
  /** See `announceReady`. */
  readonly printsPorts: boolean;
  readonly notifyDescriptor: number | undefined;
}

/**
 * Runs the server until a signal stops it: one smtpd for each connection, with TLS done in this program.
 *
 * With several workers, or when connections are served as another user, this process is the primary of the worker
 * processes: it can read keys that they cannot.
 *
 * @returns the exit status.
 * @throws Failure (100, 111) when it cannot start.
 */
export async function runServer(options: ServerOptions, environment: NodeJS.ProcessEnv): Promise<number> {
  refuseInspector();
  // With --on-demand few smtpds are started.
  if (!options.onDemand) keepHeapSmall();
  const log = createLog(options.program, options.verbosity);
  const privileges = privilegesOf(options.identity);
  if (isWorker()) return runWorker(options, { environment, privileges, log });

  // Without it no session could be served. For an smtpd that disappears later, see `startProgram`.
  const program = programOf(options);
  if (program !== undefined) checkProgram(program, environment.PATH);
  const points = options.listen === 'inherited' ? inheritedListeners(environment) : options.listen;
  const secrets = createSecrets({
    environment,
    credentialOptions: options.noStarttls ? undefined : options.credentials,
    relay: relayFilesOf(options),
    srsKeysFile: options.srs?.keysFile,
    ticketKeysFile: options.ticketKeysFile,
    report: log.reporter('secrets'),
  });
  const certificates = watchCertificates({ localHost: options.localHost, log });
  certificates.loaded(secrets.current());
  const connections = connectionsWithinDescriptors(options, log);
  const limiter = createLimiter({
    connections,
    perAddress: options.perAddress,
    waiting: options.backlog,
  });
  const smtpdLimiter = createLimiter({
    connections: options.maxSmtpds ?? connections,
    perAddress: Number.POSITIVE_INFINITY,
    // Every connection has its command wait, and in TLS another smtpd than before.
    waiting: 2 * connections,
  });
  const parts = { environment, limiter, smtpdLimiter, log };
  const isSingle = options.workers === 1 && privileges.isUnchanged;
  const processes = isSingle ? createSingleProcess(options, parts) : createWorkerPool(options, parts);

  const { promise: stopped, resolve: exit } = deferred<number>();
  const stop = (): void => void processes.stop().then(() => exit(EXIT.success));
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      log.info('stopping', { signal });
      stop();
    });
  }
  secrets.watch(processes.renew, (isValid) => {
    if (isValid) certificates.loaded(secrets.current());
    else certificates.reloadFailed();
  });
  process.on('SIGHUP', () => {
    secrets.reload();
    processes.learn();
  });
  process.on('SIGUSR1', () => {
    // SIGUSR1 asks for this line, so it is logged at any verbosity.
    const always = createLog(options.program, Math.max(2, options.verbosity));
    void processes.collect().then((metrics) => always.info('counters', formatLine(metrics)));
  });

  // First, because it may fail, and no worker has to be stopped yet.
  await serveMetricsAt(options, log, async () => {
    // What only this process knows takes the place of what a worker reports.
    const own = { ...singleSeries(FAMILIES.connectionsLimit, connections), ...certificates.metrics() };
    return formatPrometheus({ ...(await processes.collect()), ...own });
  });
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

/** The program that each session needs, smtpd or ssh; undefined if there is none. */
function programOf({ smtpd }: ServerOptions): string | undefined {
  if ('address' in smtpd) return undefined;
  if (!('reach' in smtpd)) return smtpd[0] ?? '';
  const isSsh = 'url' in smtpd.to && smtpd.to.ways.some((way) => 'ssh' in way);
  return isSsh ? smtpd.reach.sshProgram : undefined;
}

/** What is read for servers that URLs name; undefined if there are none. */
function relayFilesOf({ smtpd }: ServerOptions): SecretsOptions['relay'] {
  if (!('reach' in smtpd)) return undefined;
  return { ...smtpd.reach, routesFile: 'routesFile' in smtpd.to ? smtpd.to.routesFile : undefined };
}

async function serveMetricsAt(
  { metricsAt }: ServerOptions,
  log: Log,
  collect: () => Promise<string>,
): Promise<void> {
  if (metricsAt === undefined) return;
  // Imported on demand: few configurations use it, and node:http is large.
  const { serveMetrics } = await import('./metrics/http.ts');
  const { port } = await serveMetrics(metricsAt.host, metricsAt.port, collect, log.reporter('metrics'));
  log.info('metrics', { port });
}

/** Descriptors that sessions cannot use: for this process itself, and for connections that are refused. */
const RESERVED_DESCRIPTORS = 200;

/** Descriptors that lead to an smtpd. */
const PIPE_DESCRIPTORS = 2;

/** Descriptors of a session: the client, and those to smtpd; two more while a fresh smtpd replaces it. */
function descriptorsPerSession({ terms, maxSmtpds }: ServerOptions): number {
  if (maxSmtpds !== undefined) return 1;
  return 1 + (terms.fresh ? 2 : 1) * PIPE_DESCRIPTORS;
}

/**
 * How many connections can be served at once: as many as configured, if the descriptor limit allows it. Beyond that
 * limit the system would fail connections without an SMTP reply.
 *
 * @throws Failure (111) when not even one can be served.
 */
function connectionsWithinDescriptors(options: ServerOptions, log: Log): number {
  const { connections, backlog, maxSmtpds } = options;
  const limit = descriptorLimit();
  const each = descriptorsPerSession(options);
  const reserved = RESERVED_DESCRIPTORS + backlog + PIPE_DESCRIPTORS * (maxSmtpds ?? 0);
  const max = Math.floor((limit - reserved) / each);
  if (connections <= max) return connections;
  if (max < 1) {
    throw new Failure(
      EXIT.systemCallFailed,
      `unable to start: descriptor limit too low: ${limit} (${RAISE_DESCRIPTOR_LIMIT})`,
    );
  }
  const needed = connections * each + reserved;
  log.warning('limits', {
    text: `${connections} concurrent connections would need ${needed} descriptors: ${RAISE_DESCRIPTOR_LIMIT}`,
    descriptors: limit,
    connections: max,
  });
  return max;
}

/** The soft limit on descriptors (RLIMIT_NOFILE); Infinity where /proc does not show it. */
function descriptorLimit(): number {
  try {
    const soft = /^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1];
    return soft === undefined ? Number.POSITIVE_INFINITY : Number(soft);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
