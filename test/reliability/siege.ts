import type { Socket } from 'node:net';
import { connectTcp } from '../support/controlled-program.ts';
import { inTurns } from './crowd.ts';

/** A kind of bad client. */
export type Besieger = 'one octet a second' | 'sends nothing' | 'stops in the handshake';

/** Connected bad clients. */
export interface Siege {
  /** How many are connected still. */
  open(): number;
  /** Disconnects them all. */
  end(): void;
}

/** The first half of a ClientHello: a record of 512 octets is announced, and not all of it comes. */
const HALF_A_HELLO = Buffer.from(`1603010200010001fc0303${'00'.repeat(100)}`, 'hex');

const TRICKLE = Buffer.from('NOOP trickle\r\n');

/**
 * Connects bad clients. When it returns each has reached its state: served, with half a handshake done, or
 * silent.
 *
 * @param count how many of each kind.
 */
export async function openSiege(port: number, kinds: readonly Besieger[], count: number): Promise<Siege> {
  const sockets = new Set<Socket>();
  const trickling: Socket[] = [];
  await inTurns(kinds.length * count, 16, async (turn) => {
    const socket = await connectTcp(port);
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    const kind = kinds[turn % kinds.length];
    await waitFor(socket, /^220 /);
    if (kind === 'one octet a second') trickling.push(socket);
    if (kind !== 'stops in the handshake') return;
    socket.write('STARTTLS\r\n');
    await waitFor(socket, /^220 /);
    socket.write(HALF_A_HELLO);
  });
  let octet = 0;
  const timer = setInterval(() => {
    for (const socket of trickling) {
      if (!socket.destroyed)
        socket.write(TRICKLE.subarray(octet % TRICKLE.length, (octet % TRICKLE.length) + 1));
    }
    octet += 1;
  }, 1000);
  return {
    open: () => sockets.size,
    end: () => {
      clearInterval(timer);
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** Settles when data that matches has arrived; the socket remains flowing. */
function waitFor(socket: Socket, pattern: RegExp): Promise<void> {
  return new Promise((resolve, reject) => {
    const gone = (): void => reject(new Error('the server has hung up'));
    socket.on('close', gone);
    socket.on('data', function look(bytes: Buffer) {
      if (!pattern.test(bytes.toString('latin1'))) return;
      socket.off('close', gone);
      // It must remain flowing without a listener.
      socket.off('data', look);
      socket.resume();
      resolve();
    });
  });
}
