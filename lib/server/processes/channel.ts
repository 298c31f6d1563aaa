import type { Socket } from 'node:net';

/** Exchanges messages with another process over a socket: JSON, one message per line. */
export interface Channel {
  /** Sends a message. It is lost when the peer has closed the channel. */
  send(message: object): void;
  /** Whether what was sent has been written, except for less than the stream's high-water mark. */
  isClear(): boolean;
  /** Closes the channel; `closed` follows. */
  close(): void;
}

/** The callbacks of a channel. */
export interface ChannelListener {
  /** Called with each message, or undefined for a line that is not JSON or is too long. */
  received(message: unknown): void;
  /** What was sent has been written, after `isClear` was false. */
  cleared?(): void;
  /** The channel is closed, by either side. */
  closed(): void;
}

/** The maximum length of a worker's message, in octets: metrics with the longest labels take half of it. */
const MAX_WORKER_MESSAGE = 256 * 1024;

/** Opens the primary's side. It reads from a worker only while the worker reads, so answers cannot accumulate. */
export function openChannelToWorker(socket: Socket, listener: ChannelListener): Channel {
  const channel = openChannel(socket, MAX_WORKER_MESSAGE, listener);
  socket.on('data', () => {
    if (!channel.isClear()) socket.pause();
  });
  socket.on('drain', () => {
    listener.cleared?.();
    socket.resume();
  });
  return channel;
}

/** Opens the worker's side. It always reads, and accepts messages of any length: the primary is trusted. */
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

/** How many parts of a line are kept before they are joined: each takes more memory than its octets. */
const MAX_PARTS = 64;

/**
 * Splits bytes into lines. `createLineReader`, which is for SMTP, copies every line, which would add half to the cost
 * of a message.
 *
 * @param limit the maximum length of a line, in octets. The octets of a longer line are discarded.
 * @param take called with each line without its LF, or undefined for a line that was too long.
 * @returns a function to call with bytes as they arrive.
 */
function splitLines(limit: number, take: (line: string | undefined) => void): (bytes: Buffer) => void {
  /** The parts of a line whose end has not arrived yet. */
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
    if (parts.length > MAX_PARTS) parts = [Buffer.concat(parts)];
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
