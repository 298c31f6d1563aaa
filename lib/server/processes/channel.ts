import type { Socket } from 'node:net';

/** Messages to and from another process, over a socket: JSON, one message a line. */
export interface Channel {
  /** Sends a message. It is lost when the other side is gone. */
  send(message: object): void;
  /** Whether all that was sent has left this process, up to a small buffer. */
  isClear(): boolean;
  /** Closes the channel; `closed` follows. */
  close(): void;
}

/** What is done with what comes. */
export interface ChannelListener {
  /** A message, or undefined for a line that is not JSON or too long. */
  received(message: unknown): void;
  /** What was sent has left this process, after `isClear` was false. */
  cleared?(): void;
  /** The other side is gone, or the channel was closed. */
  closed(): void;
}

/** The longest message of a worker, in octets: all that it has counted, with the longest labels, takes half. */
const MOST_OF_WORKER = 128 * 1024;

/** The primary's side. It reads from a worker only while that reads from it, so that answers cannot pile up. */
export function openChannelToWorker(socket: Socket, listener: ChannelListener): Channel {
  const channel = openChannel(socket, MOST_OF_WORKER, listener);
  socket.on('data', () => {
    if (!channel.isClear()) socket.pause();
  });
  socket.on('drain', () => {
    listener.cleared?.();
    socket.resume();
  });
  return channel;
}

/** The worker's side. It always reads, and takes messages of any length: the primary is trusted. */
export function openChannelToPrimary(socket: Socket, listener: ChannelListener): Channel {
  return openChannel(socket, Number.POSITIVE_INFINITY, listener);
}

function openChannel(socket: Socket, limit: number, { received, closed }: ChannelListener): Channel {
  const push = splitLines(limit, (line) => {
    if (!socket.destroyed) received(line === undefined ? undefined : parse(line));
  });
  socket.on('data', push);
  // What could not be written is lost; 'close' follows.
  socket.on('error', () => {});
  socket.on('close', closed);
  return {
    send: (message) => {
      if (socket.writable) socket.write(`${JSON.stringify(message)}\n`);
    },
    isClear: () => !socket.writableNeedDrain,
    close: () => void socket.destroy(),
  };
}

const LF = 0x0a;

/** As many parts of a line are kept apart: each takes more memory than its octets. */
const MOST_PARTS = 64;

/**
 * Divides bytes into lines. Not by `createLineReader`, which is for the lines of clients: it copies all of them, and a
 * message would cost half as much again.
 *
 * @param limit of a line, in octets. More are not kept.
 * @param take is given each line without its end, or undefined for one that was too long.
 * @returns a function that takes bytes as they come.
 */
function splitLines(limit: number, take: (line: string | undefined) => void): (bytes: Buffer) => void {
  /** Of a line that has no end yet. */
  let parts: Buffer[] = [];
  let length = 0;

  function end(last: Buffer): void {
    const whole = parts.length === 0 ? last : Buffer.concat([...parts, last]);
    const isTooLong = length + last.length > limit;
    parts = [];
    length = 0;
    take(isTooLong ? undefined : whole.toString());
  }

  function keep(part: Buffer): void {
    length += part.length;
    if (length > limit) parts = [];
    else parts.push(part);
    if (parts.length > MOST_PARTS) parts = [Buffer.concat(parts)];
  }

  return (bytes) => {
    let start = 0;
    for (let at = bytes.indexOf(LF); at !== -1; at = bytes.indexOf(LF, start)) {
      end(bytes.subarray(start, at));
      start = at + 1;
    }
    if (start < bytes.length) keep(bytes.subarray(start));
  };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
