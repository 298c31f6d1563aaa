import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
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

/**
 * A port of 127.0.0.1 on which no process listens. The system does not give it to others meanwhile, not even to a client
 * that connects to it, which would be connected to itself: it is below the range that the system chooses from.
 */
export async function closedPort(): Promise<number> {
  const range = readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'latin1');
  const end = Number.parseInt(range, 10);
  for (;;) {
    const server = createServer();
    // Where the system chooses from all ports, so do we.
    const port = await listen(server, end > 20_000 ? randomInt(10_000, end) : 0).catch(() => undefined);
    if (port === undefined) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}

async function listen(server: Server, wanted = 0): Promise<number> {
  server.listen(wanted, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  if (typeof address !== 'object' || address === null) throw new Error('it listens on no port');
  return address.port;
}

/** A server in Perl whose backlog is full: connections to it are neither accepted nor refused. Node always accepts. */
const FULL = `use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1) or die;
my $port = $server->sockport;
my @clients = map { IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Blocking => 0) } 1 .. 4;
$| = 1;
print "$port\\n";
<STDIN>;`;

/** Returns a port of 127.0.0.1 where connections get no answer, until the end of the test. */
export async function silentPort(t: TestContext): Promise<number> {
  const perl = spawn('perl', ['-e', FULL], { stdio: ['pipe', 'pipe', 'inherit'] });
  t.after(() => perl.stdin.end());
  const [line] = await once(createInterface({ input: perl.stdout }), 'line');
  return Number(line);
}
