import { createServer, type Server, type Socket } from 'node:net';
import { formatHostPort } from '../../net/host-port.ts';
import { explain } from '../../program/explain.ts';
import { EXIT, Failure } from '../../program/failure.ts';
import { usage } from '../../program/options.ts';
import { inheritedKind } from '../../stream/descriptor.ts';

/** Where to listen. */
export type ListenPoint =
  | { readonly host: string; readonly port: number }
  /** A listening socket that this process has inherited. */
  | {
      readonly descriptor: number;
      /** Its name in LISTEN_FDNAMES; undefined for none. */
      readonly name: string | undefined;
      /** Its name in messages, see `describePoint`; "descriptor N" when undefined. */
      readonly label?: string;
    };

/** The port and name of a listener. */
export interface ListenerName {
  /** The port that it listens on, also where the kernel chose one. */
  readonly port: number;
  /** Its name in logs: "192.0.2.1:25", "[::]:25", or the name in LISTEN_FDNAMES. */
  readonly name: string;
}

/** A listener that accepts connections. */
export interface Listener extends ListenerName {
  /** Stops listening. Accepted connections stay open. */
  close(): void;
}

/** The callbacks of a listener. */
export interface ListenerEvents {
  connection(socket: Socket): void;
  /**
   * A connection could not be accepted, usually for lack of memory. The listener stays open. When descriptors run
   * out, libuv closes the connection without reporting it.
   */
  failed(error: unknown): void;
}

/**
 * Finds the listening sockets that this process has inherited: those of systemd when LISTEN_FDS and LISTEN_PID
 * announce some for this process, else descriptor 0.
 *
 * @throws Failure (100) when LISTEN_FDS is malformed, or a descriptor is not a socket.
 */
export function inheritedListeners(environment: NodeJS.ProcessEnv): ListenPoint[] {
  const points = systemdListeners(environment) ?? [{ descriptor: 0, name: undefined }];
  for (const { descriptor } of points) {
    if (inheritedKind(descriptor) !== 'socket') {
      const isForAnother =
        environment.LISTEN_PID !== undefined && environment.LISTEN_PID !== String(process.pid);
      const why = isForAnother ? ', and LISTEN_PID is not this process: start it by exec' : '';
      throw usage(`descriptor ${descriptor} is not a listening socket${why}`);
    }
  }
  return points;
}

/** See sd_listen_fds(3). */
const FIRST_DESCRIPTOR = 3;
const MAX_DESCRIPTORS = 64;

function systemdListeners(
  environment: NodeJS.ProcessEnv,
): { descriptor: number; name: string | undefined }[] | undefined {
  const { LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES } = environment;
  if (LISTEN_FDS === undefined || LISTEN_PID !== String(process.pid)) return undefined;
  const count = Number(LISTEN_FDS);
  if (!/^\d+$/.test(LISTEN_FDS) || count < 1 || count > MAX_DESCRIPTORS) {
    throw usage(`LISTEN_FDS must be a number from 1 to ${MAX_DESCRIPTORS}, not ${LISTEN_FDS}`);
  }
  const names = LISTEN_FDNAMES?.split(':') ?? [];
  return Array.from({ length: count }, (_, index) => ({
    descriptor: FIRST_DESCRIPTOR + index,
    name: names[index],
  }));
}

/**
 * Opens a listener. It accepts half-open connections, and hands them out paused.
 *
 * @param backlog how many connections may wait in the kernel to be accepted.
 * @throws Failure (111) when the system refuses to listen there; (100) for a descriptor that is not a TCP socket.
 */
export async function openListener(
  point: ListenPoint,
  backlog: number,
  events: ListenerEvents,
): Promise<Listener> {
  const server = createServer(
    { allowHalfOpen: true, noDelay: true, pauseOnConnect: true },
    events.connection,
  );
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => {
      reject(
        new Failure(
          EXIT.systemCallFailed,
          `unable to listen on ${describePoint(point)}: ${explain('listen', error)}`,
        ),
      );
    });
    server.listen('host' in point ? { ...point, backlog } : { fd: point.descriptor, backlog }, resolve);
  });
  if ('descriptor' in point && portOf(server) === 0) {
    server.close();
    // Its connections have no addresses, so each would be closed without a reply.
    throw usage(`${describePoint(point)} is not a TCP socket`);
  }
  server.on('error', events.failed);
  const name = 'name' in point && point.name !== undefined ? point.name : nameOf(server);
  return { port: portOf(server), name, close: () => void server.close() };
}

/** A point as named in messages: "127.0.0.1 port 25", "descriptor 0". */
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
