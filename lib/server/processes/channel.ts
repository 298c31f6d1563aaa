import type { Socket } from 'node:net';
import { createLineReader } from '../../smtp/line.ts';

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
  const reader = createLineReader(limit);
  socket.on('data', (bytes: Buffer) => {
    reader.push(bytes);
    for (let line = reader.peek(); line !== undefined && !socket.destroyed; line = reader.peek()) {
      reader.drop();
      received(line.fault === undefined ? parse(line.text) : undefined);
    }
  });
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

function parse(text: Buffer): unknown {
  try {
    return JSON.parse(text.toString());
  } catch {
    return undefined;
  }
}
