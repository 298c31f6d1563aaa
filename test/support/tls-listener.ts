import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import type { TLSSocket } from 'node:tls';
import { HandshakeFailure, type TlsServer } from '../../lib/tls/handshake.ts';
import { DEADLINE, within } from './within.ts';

/** The outcome of the handshake on one connection. */
export interface Outcome {
  readonly connection: Socket;
  readonly socket: TLSSocket | undefined;
  readonly failure: HandshakeFailure | undefined;
}

/** A listener whose connections are given to a TLS server. */
export interface Scene {
  readonly port: number;
  /** Settles with the next connection of which it is known how it went. */
  next(): Promise<Outcome>;
}

/** Listens on a port of its own and hands each connection to a TLS server, until the test ends. */
export async function listen(t: TestContext, tls: TlsServer): Promise<Scene> {
  const waiting: ((outcome: Outcome) => void)[] = [];
  const outcomes: Outcome[] = [];
  const open = new Set<Socket>();
  const listener: Server = createServer({ allowHalfOpen: true }, async (connection) => {
    open.add(connection);
    let outcome: Outcome;
    try {
      const socket = await tls.shakeHands(connection, () => {});
      socket.on('error', () => {});
      outcome = { connection, socket, failure: undefined };
    } catch (failure) {
      assert.ok(failure instanceof HandshakeFailure);
      outcome = { connection, socket: undefined, failure };
    }
    const resolve = waiting.shift();
    if (resolve === undefined) outcomes.push(outcome);
    else resolve(outcome);
  });
  listener.listen(0, '127.0.0.1');
  await within(DEADLINE, 'listener', once(listener, 'listening'));
  t.after(() => {
    for (const connection of open) connection.destroy();
    listener.close();
  });
  return {
    port: portOf(listener),
    next: () => {
      const outcome = outcomes.shift();
      if (outcome !== undefined) return Promise.resolve(outcome);
      const next = new Promise<Outcome>((resolve) => waiting.push(resolve));
      return within(DEADLINE, 'outcome of a handshake at the server', next);
    },
  };
}

function portOf(listener: Server): number {
  return (listener.address() as AddressInfo).port;
}

/** Connects to a port, without TLS. */
export async function plainClient(t: TestContext, port: number): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1' });
  t.after(() => socket.destroy());
  await within(DEADLINE, 'connection', once(socket, 'connect'));
  socket.on('error', () => {});
  return socket;
}
