import { createServer, type Server, type Socket } from 'node:net';
import type { TestContext } from 'node:test';

/**
 * Listens on 127.0.0.1 until the end of the test.
 *
 * @param serve is given each connection, which stays half-open when the other side has ended.
 * @returns the port.
 */
export async function listenTcp(t: TestContext, serve: (socket: Socket) => void): Promise<number> {
  return listen(serverOf(t, serve));
}

/** The same on a Unix socket. */
export async function listenUnix(
  t: TestContext,
  path: string,
  serve: (socket: Socket) => void,
): Promise<void> {
  const server = serverOf(t, serve);
  await new Promise<void>((resolve) => server.listen(path, resolve));
}

function serverOf(t: TestContext, serve: (socket: Socket) => void): Server {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    // Tests reset some.
    socket.on('error', () => {});
    t.after(() => socket.destroy());
    serve(socket);
  });
  t.after(() => void server.close());
  return server;
}

/** A port of 127.0.0.1 on which no process listens any more. */
export async function closedPort(): Promise<number> {
  const server = createServer();
  const port = await listen(server);
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (typeof address !== 'object' || address === null) throw new Error('it listens on no port');
  return address.port;
}
