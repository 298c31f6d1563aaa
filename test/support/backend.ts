import type { Socket } from 'node:net';

/** A minimal SMTP server. */
export interface Backend {
  /** `received` is all that a connection has sent. */
  readonly connections: { readonly socket: Socket; received: Buffer }[];
  /** Serves a connection. */
  serve(socket: Socket): void;
}

/** @param headerEnd finds where the PROXY header ends; undefined while it is incomplete. */
export function makeBackend(headerEnd: (received: Buffer) => number | undefined = () => 0): Backend {
  const connections: Backend['connections'] = [];
  const serve = (socket: Socket): void => {
    const connection = { socket, received: Buffer.alloc(0) };
    connections.push(connection);
    let answered: number | undefined;
    const answer = (): void => {
      const start = headerEnd(connection.received);
      if (start === undefined) return;
      if (answered === undefined) {
        socket.write('220 backend\r\n');
        answered = start;
      }
      for (;;) {
        const end: number = connection.received.indexOf('\r\n', answered);
        if (end < 0) return;
        const line = connection.received.toString('latin1', answered, end);
        socket.write(line === 'QUIT' ? '221 bye\r\n' : '250 ok\r\n');
        answered = end + 2;
      }
    };
    socket.on('data', (bytes: Buffer) => {
      connection.received = Buffer.concat([connection.received, bytes]);
      answer();
    });
    socket.on('end', () => socket.end());
    answer();
  };
  return { connections, serve };
}

/** The end of a PROXY header of version 1. */
export const endOfV1 = (received: Buffer): number | undefined => {
  const end = received.indexOf('\r\n');
  return end < 0 ? undefined : end + 2;
};

/** The end of a PROXY header of version 2. */
export const endOfV2 = (received: Buffer): number | undefined => {
  if (received.length < 16) return undefined;
  const end = 16 + received.readUInt16BE(14);
  return received.length < end ? undefined : end;
};

/** Serves a connection up to the middle of a message, refuses it there, and closes with the rest unread. */
export function refuseMessage(socket: Socket): void {
  const LIMIT = 300_000;
  let size: number | undefined;
  socket.write('220 backend\r\n');
  const receive = (bytes: Buffer): void => {
    if (size !== undefined) {
      size += bytes.length;
      if (size < LIMIT) return;
      socket.off('data', receive);
      socket.pause();
      socket.end('552 5.3.4 too big\r\n', () => socket.destroy());
    } else if (bytes.toString('latin1').endsWith('DATA\r\n')) {
      size = 0;
      socket.write('354 go\r\n');
    } else socket.write('250 ok\r\n');
  };
  socket.on('data', receive);
}

/** A message beyond what fits into the buffers of the kernel. */
export const BIG_MESSAGE = Buffer.alloc(10_000_000, `${'x'.repeat(70)}\r\n`);
