import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { type ConnectionOptions, connect as connectTls } from 'node:tls';
import { mutate } from './input.ts';
import { createRandom, type Random } from './random.ts';

/** How long the server may take to close a connection after the client has sent everything, in milliseconds. */
const ENDED_TIMEOUT = 20_000;

/**
 * Records what a client of Node's begins a handshake with.
 *
 * @param name the server that it asks for.
 * @param more what it offers beside that, or in place of it.
 */
export async function recordHello(name: string, more: ConnectionOptions = {}): Promise<Buffer> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const options = { servername: name, ALPNProtocols: ['smtp'], ...more };
  const client = connectTls({ port, host: '127.0.0.1', ...options });
  client.on('error', () => {});
  const [socket]: Socket[] = await once(server, 'connection');
  const [hello]: Buffer[] = await once(socket ?? client, 'data');
  client.destroy();
  socket?.destroy();
  server.close();
  return hello ?? Buffer.alloc(0);
}

/**
 * Sends a server something that looks like the beginning of a handshake, cut anywhere, and goes in one of the
 * ways in which clients go.
 *
 * @param seed and
 * @param number name it.
 * @param before what is sent in front of it, damaged as well; for example a PROXY header.
 * @returns settles when the connection is closed. @throws Error when the server does not close it.
 */
export async function sendBadHello(
  port: number,
  seed: number,
  number: number,
  hello: Buffer,
  before: string,
): Promise<void> {
  const random = createRandom(seed, number);
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
  socket.on('error', () => {});
  socket.resume();
  const closed = new Promise((resolve) => socket.once('close', resolve));
  socket.once('end', () => socket.end());
  await once(socket, 'connect');
  const text =
    (random.chance(30) ? mutate(before, random) : before) + damaged(hello.toString('latin1'), random);
  for (let at = 0; at < text.length && !socket.destroyed && socket.writable; ) {
    const to = at + (random.chance(50) ? text.length : 1 + random.below(300));
    socket.write(text.slice(at, to), 'latin1');
    at = to;
    if (random.chance(50)) await new Promise((resolve) => setImmediate(resolve));
  }
  const way = random.below(3);
  if (way === 0) socket.resetAndDestroy();
  else if (way === 1) socket.destroy();
  else if (socket.writable) socket.end();
  const timer = setTimeout(() => socket.destroy(new Error('late')), ENDED_TIMEOUT);
  await closed;
  clearTimeout(timer);
  if (socket.errored?.message === 'late')
    throw new Error(`seed ${seed}, number ${number}: it is never closed`);
}

function damaged(hello: string, random: Random): string {
  let text = hello;
  for (let times = random.below(4); times > 0; times--) text = mutate(text, random);
  return random.chance(20) ? text.slice(0, random.below(text.length)) : text;
}
