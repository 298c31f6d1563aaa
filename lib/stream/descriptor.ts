import { closeSync, fstatSync, openSync, readFileSync, type Stats } from 'node:fs';
import { type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net';
import { explain } from '../program/explain.ts';
import { EXIT, Failure } from '../program/failure.ts';
import {
  type ByteStream,
  IGNORE,
  once,
  type Sink,
  type Source,
  sinkOfStream,
  watchedSource,
} from './byte-stream.ts';

/**
 * The size of one read in octets, and so the most that is buffered per direction. The pipes of a chain hold as much,
 * and a larger buffer was not measurably faster.
 */
const READ_SIZE = 65536;

/**
 * Opens a descriptor that is a socket or a pipe for reading.
 *
 * `pause` stops reading at once, even when called from `bytes`: what the peer sends later stays in the kernel for
 * the next reader of the descriptor. The bytes given are valid until the next read.
 *
 * The descriptor becomes non-blocking, for all processes that share it.
 *
 * @throws if the descriptor is of another kind (a file, a terminal).
 */
export function openSource(fd: number): Source {
  return openReadable(fd, false).source;
}

/**
 * Opens a descriptor that is a socket or a pipe for writing.
 *
 * The descriptor becomes non-blocking, for all processes that share it.
 *
 * @throws if the descriptor is of another kind (a file, a terminal).
 */
export function openSink(fd: number): Sink {
  const socket = new Socket({ fd, readable: false, writable: true, allowHalfOpen: true });
  socket.on('close', () => release(fd));
  return sinkOfStream(socket);
}

/**
 * Opens a pair of descriptors as one stream. They may be the same descriptor, which is closed when both directions
 * are.
 *
 * @throws as `openSource` and `openSink` do.
 */
export function openDescriptors(readFd: number, writeFd: number): ByteStream {
  if (readFd !== writeFd) return { source: openSource(readFd), sink: openSink(writeFd) };
  const { source, socket } = openReadable(readFd, true);
  const sink = sinkOfStream(socket);
  let open = 2;
  function closed(): void {
    open -= 1;
    if (open === 0) socket.destroy();
  }
  function closeSource(): void {
    source.pause();
    source.listen(IGNORE);
    closed();
  }
  function closeSink(): void {
    sink.listen(IGNORE);
    closed();
  }
  return {
    source: { ...source, close: once(closeSource) },
    sink: { ...sink, close: once(closeSink) },
  };
}

/**
 * Opens descriptors 0 and 1, the client's connection of a program that is started for each connection.
 *
 * @throws Failure (111) if they are not sockets or pipes.
 */
export function openStandard(): ByteStream {
  try {
    return openDescriptors(0, 1);
  } catch (error) {
    throw new Failure(
      EXIT.systemCallFailed,
      `unable to use descriptors 0 and 1, which must be sockets or pipes: ${explain('serve', error)}`,
    );
  }
}

function openReadable(fd: number, writable: boolean): { source: Source; socket: Socket } {
  let paused = true;
  const options: SocketConstructorOpts & { onread: OnReadOpts } = {
    fd,
    readable: true,
    writable,
    allowHalfOpen: true,
    onread: {
      buffer: Buffer.allocUnsafeSlow(READ_SIZE),
      callback: (count, buffer) => {
        bytes(buffer.subarray(0, count));
        return !paused;
      },
    },
  };
  const socket = new Socket(options);
  // The constructor has started reading already. No bytes can arrive before the event loop turns.
  socket.pause();
  socket.on('close', () => release(fd));
  const { source, bytes } = watchedSource(socket, {
    read: () => {
      if (!paused) return;
      paused = false;
      socket.resume();
    },
    pause: () => {
      if (paused) return;
      paused = true;
      socket.pause();
    },
  });
  return { source, socket };
}

/**
 * Releases a standard descriptor, which libuv never closes itself. The null device takes its place: a descriptor
 * that is opened later, such as a pipe to a child, must not get the number 0 or 1, because libuv would not close
 * that either.
 */
export function release(fd: number): void {
  if (fd > 2) return;
  closeSync(fd);
  openSync('/dev/null', 'r+');
}

/**
 * Closes descriptors that nothing in this process reads or writes.
 *
 * @param fds numbers; a repeated number is closed once.
 */
export function closeDescriptors(fds: readonly number[]): void {
  for (const fd of new Set(fds)) closeSync(fd);
}

/**
 * The kind of a descriptor that this process was started with.
 *
 * @returns undefined if it is not open, or is a pipe of Node's own: Node opens a dozen descriptors before our first line
 * runs, and a wrong number in the environment may be one of those. The others of Node are 'other'.
 */
export function inheritedKind(fd: number): 'socket' | 'pipe' | 'other' | undefined {
  const stats = tryStat(fd);
  if (stats === undefined) return undefined;
  if (stats.isSocket()) return 'socket';
  if (!stats.isFIFO()) return 'other';
  return belongsToNode(fd, stats) ? undefined : 'pipe';
}

/** Node's own pipes are newer than the process and have both ends in it. */
function belongsToNode(fd: number, pipe: Stats): boolean {
  // Not performance.timeOrigin, which takes a millisecond to load.
  const started = Date.now() - process.uptime() * 1000;
  if (pipe.ctimeMs < started - CLOCK_TICK_MS) return false;
  const mode = accessMode(fd);
  for (let other = 3; other < MAX_NODE_DESCRIPTORS; other++) {
    const stats = other === fd ? undefined : tryStat(other);
    if (stats?.ino === pipe.ino && stats.dev === pipe.dev && accessMode(other) !== mode) return true;
  }
  return false;
}

/** The access mode of a descriptor (read, write or both): the last octal digit of its flags. */
function accessMode(fd: number): string | undefined {
  return flagsOf(fd)?.at(-1);
}

/** Octal, see open(2). */
const O_CLOEXEC = 0o2000000;

/**
 * Whether programs that we start do not inherit a descriptor. At its start Node sets close-on-exec on inherited
 * descriptors up to number 16, and above that up to the first number that is not open. It has no way to set it later.
 *
 * @returns true as well where the system does not provide the flags.
 */
export function isClosedOnExec(fd: number): boolean {
  const flags = flagsOf(fd);
  return flags === undefined || (Number.parseInt(flags, 8) & O_CLOEXEC) !== 0;
}

/** The flags of a descriptor, in octal, from /proc (Linux); undefined elsewhere. */
function flagsOf(fd: number): string | undefined {
  try {
    return /^flags:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1];
  } catch {
    return undefined;
  }
}

/** Timestamps of pipes come from a coarser clock than the start time of the process; in milliseconds. */
const CLOCK_TICK_MS = 10;

/** No version of Node opens descriptors of its own above this number at its start. */
const MAX_NODE_DESCRIPTORS = 64;

function tryStat(fd: number): Stats | undefined {
  try {
    return fstatSync(fd);
  } catch {
    return undefined;
  }
}
