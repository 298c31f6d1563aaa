import { createServer, type Server, type Socket } from 'node:net';
import { formatHostPort } from '../../net/address.ts';
import { KEEPALIVE } from '../../net/endpoints.ts';
import { EXIT, errorCode, Failure } from '../../program/failure.ts';
import { usage } from '../../program/options.ts';
import { inheritedKind } from '../../stream/descriptor.ts';

/** Where to listen. */
export type ListenPoint =
  | { readonly host: string; readonly port: number }
  /** A listening socket that this process was started with. */
  | {
      readonly descriptor: number;
      /** The name that systemd has for it; undefined for none. */
      readonly name: string | undefined;
      /** What messages call it, see `describePoint`; its number when undefined. */
      readonly label?: string;
    };

/** What is known of a listener. */
export interface ListenerName {
  /** The port that it listens on. */
  readonly port: number;
  /** What it is, for logs: "192.0.2.1:25", "[::]:25", or the name that systemd has for it. */
  readonly name: string;
}

/** A listener at work. */
export interface Listener extends ListenerName {
  /** Takes no more connections. */
  close(): void;
}

/** What is done with what a listener has to tell. */
export interface ListenerEvents {
  connection(socket: Socket): void;
  /**
   * A connection could not be accepted: out of memory, as a rule. The listener goes on. Where descriptors are
   * what there is none of, libuv closes the connection and tells nobody.
   */
  failed(error: unknown): void;
}

/**
 * Finds the listening sockets that this process was started with: those of systemd when LISTEN_FDS and
 * LISTEN_PID say that there are some for us, else descriptor 0.
 *
 * @throws Failure (100) when there is none.
 */
export function inheritedListeners(environment: NodeJS.ProcessEnv): ListenPoint[] {
  const points = systemdListeners(environment) ?? [{ descriptor: 0, name: undefined }];
  for (const { descriptor } of points) {
    if (inheritedKind(descriptor) !== 'socket')
      throw usage(`descriptor ${descriptor} is no listening socket`);
  }
  return points;
}

/** See sd_listen_fds(3). */
const FIRST_DESCRIPTOR = 3;
const MOST_DESCRIPTORS = 64;

function systemdListeners(
  environment: NodeJS.ProcessEnv,
): { descriptor: number; name: string | undefined }[] | undefined {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES } = environment;
  if (LISTEN_FDS === undefined || LISTEN_PID !== String(process.pid)) return undefined;
  const count = Number(LISTEN_FDS);
  if (!/^\d+$/.test(LISTEN_FDS) || count < 1 || count > MOST_DESCRIPTORS) {
    throw usage(`LISTEN_FDS is to be a number from 1 to ${MOST_DESCRIPTORS}, not ${LISTEN_FDS}`);
  }
  const names = LISTEN_FDNAMES?.split(':') ?? [];
  return Array.from({ length: count }, (_, index) => ({
    descriptor: FIRST_DESCRIPTOR + index,
    name: names[index],
  }));
}

/**
 * Listens.
 *
 * @param backlog how many connections the system keeps that were not accepted yet.
 * @throws Failure (111) when the system does not allow it.
 */
export async function openListener(
  point: ListenPoint,
  backlog: number,
  events: ListenerEvents,
): Promise<Listener> {
  const server = createServer(
    { allowHalfOpen: true, noDelay: true, pauseOnConnect: true, ...KEEPALIVE },
    events.connection,
  );
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(
        new Failure(
          EXIT.systemCallFailed,
          `unable to listen on ${describePoint(point)}: ${errorCode(error)}`,
        ),
      );
    });
    server.listen('host' in point ? { ...point, backlog } : { fd: point.descriptor, backlog }, resolve);
  });
  if ('descriptor' in point && portOf(server) === 0) {
    server.close();
    // A connection that has no addresses would be closed without a word.
    throw usage(`${describePoint(point)} is no TCP socket`);
  }
  server.on('error', events.failed);
  const name = 'name' in point && point.name !== undefined ? point.name : nameOf(server);
  return { port: portOf(server), name, close: () => void server.close() };
}

/** What messages call a point: "127.0.0.1 port 25", "descriptor 0". */
export function describePoint(point: ListenPoint): string {
  if ('host' in point) return `${point.host} port ${point.port}`;
  return point.label ?? `descriptor ${point.descriptor}`;
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

function nameOf(server: Server): string {
  const address = server.address();
  if (typeof address !== 'object' || address === null) return 'unknown';
  return formatHostPort(address.address, address.port);
}
