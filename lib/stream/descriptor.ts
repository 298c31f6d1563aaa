import { closeSync, fstatSync, openSync, readFileSync, type Stats } from 'node:fs';
import { type OnReadOpts, Socket, type SocketConstructorOpts } from 'node:net';
import { EXIT, errorCode, Failure } from '../program/failure.ts';
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
 * How much is read at once, in octets, and with that how much of a direction is ever held: the pipes of a
 * chain hold as much, and a larger buffer was not measurably faster.
 */
const READ_SIZE = 65536;

/**
 * Opens a descriptor that is a socket or a pipe for reading.
 *
 * `pause` stops the reading itself, at once, even from within `bytes`: what the peer sends later stays in
 * the kernel for whoever reads the descriptor next. The bytes given are good until the next read.
 *
 * The descriptor becomes non-blocking, for all processes that share it.
 *
 * @throws when the descriptor is of another kind (a file, a terminal).
 */
export function openSource(fd: number): Source {
  return readAtOnce(fd, false).source;
}

/**
 * Opens a descriptor that is a socket or a pipe for writing.
 *
 * The descriptor becomes non-blocking, for all processes that share it.
 *
 * @throws when the descriptor is of another kind (a file, a terminal).
 */
export function openSink(fd: number): Sink {
  const socket = new Socket({ fd, readable: false, writable: true, allowHalfOpen: true });
  socket.on('close', () => release(fd));
  return sinkOfStream(socket);
}

/**
 * Opens a pair of descriptors as one stream; they may be the same one, which then is closed when both
 * directions are.
 *
 * @throws as `openSource` and `openSink` do.
 */
export function openDescriptors(readFd: number, writeFd: number): ByteStream {
  if (readFd !== writeFd) return { source: openSource(readFd), sink: openSink(writeFd) };
  const { source, socket } = readAtOnce(readFd, true);
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
 * Opens descriptors 0 and 1, on which the client of a program started for one connection is.
 *
 * @throws Failure (111) when they lead to no client.
 */
export function openStandard(): ByteStream {
  try {
    return openDescriptors(0, 1);
  } catch (error) {
    throw new Failure(
      EXIT.systemCallFailed,
      `unable to use descriptors 0 and 1, which must be sockets or pipes: ${errorCode(error)}`,
    );
  }
}

function readAtOnce(fd: number, writable: boolean): { source: Source; socket: Socket } {
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
  // The constructor has asked for bytes already. None can have come before the event loop turns.
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
 * Gives up a standard descriptor, which libuv never closes itself. The null device takes its place: a
 * descriptor that is opened later, a pipe to a child, say, must not become number 0 or 1, because then
 * libuv would not close that either.
 */
export function release(fd: number): void {
  if (fd > 2) return;
  closeSync(fd);
  openSync('/dev/null', 'r+');
}

/**
 * Closes descriptors that nobody in this process reads or writes.
 *
 * @param fds numbers; one that stands there twice is closed once.
 */
export function closeDescriptors(fds: readonly number[]): void {
  for (const fd of new Set(fds)) closeSync(fd);
}

/**
 * Tells what a descriptor is that this process was started with.
 *
 * @returns undefined when it is not open, or is one that Node made for itself: Node opens a dozen before
 * our first line runs, and a number out of a wrong environment may well name one of those.
 */
export function inheritedKind(fd: number): 'socket' | 'pipe' | 'other' | undefined {
  const stats = tryStat(fd);
  if (stats === undefined) return undefined;
  if (stats.isSocket()) return 'socket';
  if (!stats.isFIFO()) return 'other';
  return isNodesOwn(fd, stats) ? undefined : 'pipe';
}

/** Node's pipes are younger than the process and have both their ends in it. */
function isNodesOwn(fd: number, pipe: Stats): boolean {
  // Not performance.timeOrigin: to load that takes a millisecond.
  const started = Date.now() - process.uptime() * 1000;
  if (pipe.ctimeMs < started - CLOCK_TICK_MS) return false;
  const mode = accessMode(fd);
  for (let other = 3; other < MOST_NODE_DESCRIPTORS; other++) {
    const stats = other === fd ? undefined : tryStat(other);
    if (stats?.ino === pipe.ino && stats.dev === pipe.dev && accessMode(other) !== mode) return true;
  }
  return false;
}

/** Whether a descriptor reads or writes: the lowest of its flags, which are octal. */
function accessMode(fd: number): string | undefined {
  return flagsOf(fd)?.at(-1);
}

/** Octal, see open(2). */
const O_CLOEXEC = 0o2000000;

/**
 * Whether a descriptor is kept from the programs that we start. Node sees to that for those it was started
 * with up to number 16, and above until the first number that is not open, and has no way to do it later.
 *
 * @returns true as well where the system does not tell.
 */
export function isClosedOnExec(fd: number): boolean {
  const flags = flagsOf(fd);
  return flags === undefined || (Number.parseInt(flags, 8) & O_CLOEXEC) !== 0;
}

/** The flags of a descriptor, in octal, as Linux tells them. */
function flagsOf(fd: number): string | undefined {
  try {
    return /^flags:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1];
  } catch {
    return undefined;
  }
}

/** The stamps of a pipe are taken from a coarser clock than the start of the process. */
const CLOCK_TICK_MS = 10;

/** No Node opens more than this for itself at its start. */
const MOST_NODE_DESCRIPTORS = 64;

function tryStat(fd: number): Stats | undefined {
  try {
    return fstatSync(fd);
  } catch {
    return undefined;
  }
}
