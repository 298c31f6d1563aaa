import { lookup } from 'node:dns/promises';
import { closeSync } from 'node:fs';
import * as net from 'node:net';
import { getSystemErrorName } from 'node:util';
import { explain } from '../../program/explain.ts';
import { EXIT, Failure } from '../../program/failure.ts';
import { release } from '../../stream/descriptor.ts';
import { describePoint, type ListenPoint } from './listeners.ts';

/** A socket that worker processes listen on and accept from. This process only keeps it open. */
export interface SharedSocket {
  /** Its descriptor in this process. */
  readonly descriptor: number;
  /** Its name in messages; see `describePoint`. */
  readonly label: string;
  /** Its name in LISTEN_FDNAMES; undefined for none. */
  readonly name: string | undefined;
  /** Closes it in this process. It stays open in others. */
  close(): void;
}

/**
 * Opens the sockets for workers to listen on. Host names are looked up here; "::" also accepts IPv4 connections,
 * as with `listen` of node:net.
 *
 * @returns the sockets in the order of the points. They are bound; the first worker calls listen(2).
 * @throws Failure (111) that names the first point that cannot be bound.
 */
export async function openSharedSockets(points: readonly ListenPoint[]): Promise<readonly SharedSocket[]> {
  const sockets: SharedSocket[] = [];
  for (const point of points) sockets.push(await openSharedSocket(point));
  return sockets;
}

async function openSharedSocket(point: ListenPoint): Promise<SharedSocket> {
  const label = describePoint(point);
  if ('descriptor' in point) {
    const { descriptor, name } = point;
    return { descriptor, label, name, close: () => closeInherited(descriptor) };
  }
  try {
    const { address } = await lookup(point.host);
    return { ...bindSocket(address, point.port), label, name: undefined };
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw new Failure(EXIT.systemCallFailed, `unable to listen on ${label}: ${explain('listen', error)}`);
  }
}

function closeInherited(descriptor: number): void {
  if (descriptor <= 2) release(descriptor);
  else closeSync(descriptor);
}

/** A bound socket. */
type BoundSocket = Pick<SharedSocket, 'descriptor' | 'close'>;

/**
 * Binds a socket without listening on it: a Node process that listens also accepts.
 *
 * Node 24 and later have `net.BoundSocket` for that (its `fd` came in a later release of 24). Where it is missing,
 * this uses the undocumented function that the primary of node:cluster binds with.
 *
 * @param ip an IPv4 or IPv6 address.
 * @param node the module node:net.
 * @throws Error with the system's error `code`; Failure (111) when this Node has neither function.
 */
export function bindSocket(ip: string, port: number, node: object = net): BoundSocket {
  const BoundSocket: unknown = Reflect.get(node, 'BoundSocket');
  if (isBoundSocketClass(BoundSocket)) {
    const bound = new BoundSocket({ host: ip, port });
    return { descriptor: bound.fd(), close: () => bound.close() };
  }
  const createServerHandle: unknown = Reflect.get(node, '_createServerHandle');
  if (typeof createServerHandle === 'function') {
    const handle: unknown = createServerHandle(ip, port, net.isIPv6(ip) ? 6 : 4, -1, 0);
    if (typeof handle === 'number') throw systemError(handle);
    if (isHandle(handle)) return checkBound(handle);
  }
  const why = `Node.js ${process.version} cannot bind a socket for workers`;
  throw new Failure(EXIT.systemCallFailed, `unable to listen: ${why}`);
}

/** libuv reports EADDRINUSE only when the handle is used. */
function checkBound(handle: Handle): BoundSocket {
  const error = handle.getsockname({});
  if (error === 0) return { descriptor: handle.fd, close: () => handle.close() };
  handle.close();
  throw systemError(error);
}

function systemError(number: number): Error {
  return Object.assign(new Error('bind'), { code: getSystemErrorName(number) });
}

/** As documented for Node 26. */
type BoundSocketClass = new (options: { host: string; port: number }) => { fd(): number; close(): void };

function isBoundSocketClass(value: unknown): value is BoundSocketClass {
  return typeof value === 'function' && typeof value.prototype === 'object' && 'fd' in value.prototype;
}

/** The internal handle of a server of node:net. */
interface Handle {
  readonly fd: number;
  /** @returns 0 or an error number. */
  getsockname(out: object): number;
  close(): void;
}

function isHandle(value: unknown): value is Handle {
  if (typeof value !== 'object' || value === null) return false;
  return 'fd' in value && typeof value.fd === 'number' && 'getsockname' in value && 'close' in value;
}
