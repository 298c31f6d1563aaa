/** One session of a client: as cheap as it can be had in Node, since the client shall not be the limit. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { connect as connectTls, createSecureContext, type TLSSocket } from 'node:tls';
import { type Conversation, startConversation } from './conversation.ts';

/** How long a server may be silent, in milliseconds. */
const SILENCE_LIMIT = 60_000;

/** One for all: to make one costs more than a handshake. */
const CONTEXT = createSecureContext();

/** A session in TLS, after its second EHLO. */
export interface OpenSession {
  readonly socket: TLSSocket;
  readonly conversation: Conversation;
  /** Whether the server took the ticket. */
  readonly resumed: boolean;
  /** QUIT, and waits until the connection has ended. */
  quit(): Promise<void>;
}

/** The ticket of one session for the next (RFC 8446 section 2.2). */
export interface TicketStore {
  ticket: Buffer | undefined;
}

/** Connects and reads the greeting. */
export async function greet(port: number): Promise<{ socket: Socket; conversation: Conversation }> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true });
  socket.setTimeout(SILENCE_LIMIT, () => socket.destroy(new Error('the server sends nothing')));
  const conversation = startConversation(socket);
  expect(await conversation.reply(), '2');
  return { socket, conversation };
}

/** A whole session in cleartext: greeting, EHLO, QUIT, until the connection has ended. */
export async function cleartextSession(port: number): Promise<void> {
  const { socket, conversation } = await greet(port);
  try {
    await conversation.command('EHLO bench.example\r\n', '2');
    const closed = once(socket, 'close');
    await conversation.command('QUIT\r\n', '2');
    await closed;
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/**
 * Connects and goes into TLS: greeting, EHLO, STARTTLS, handshake, EHLO. The certificate is not looked at.
 *
 * @param store with the ticket to resume with, and for the next; without one each handshake is a full one.
 * @throws Error when the server does not take part.
 */
export async function openSession(port: number, store?: TicketStore): Promise<OpenSession> {
  const { socket: plain, conversation: cleartext } = await greet(port);
  try {
    await cleartext.command('EHLO bench.example\r\n', '2');
    await cleartext.command('STARTTLS\r\n', '2');
    cleartext.leave();
    const socket = connectTls({
      socket: plain,
      secureContext: CONTEXT,
      rejectUnauthorized: false,
      checkServerIdentity: () => undefined,
      ...(store?.ticket === undefined ? {} : { session: store.ticket }),
    });
    if (store !== undefined) {
      socket.on('session', (ticket) => {
        store.ticket = ticket;
      });
    }
    const conversation = startConversation(socket);
    await secured(socket);
    await conversation.command('EHLO bench.example\r\n', '2');
    return {
      socket,
      conversation,
      resumed: socket.isSessionReused(),
      quit: async () => {
        const closed = once(socket, 'close');
        await conversation.command('QUIT\r\n', '2');
        await closed;
      },
    };
  } catch (error) {
    plain.destroy();
    throw error;
  }
}

function secured(socket: TLSSocket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('secureConnect', resolve);
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('the server has hung up in the handshake')));
  });
}

/** Sends a message up to its octets. @param send writes the octets; the dot is not among them. */
export async function sendMessage(session: OpenSession, send: () => void | Promise<void>): Promise<void> {
  const { conversation } = session;
  await conversation.command('MAIL FROM:<sender@bench.example>\r\n', '2');
  await conversation.command('RCPT TO:<recipient@bench.example>\r\n', '2');
  await conversation.command('DATA\r\n', '3');
  await send();
  await conversation.command('.\r\n', '2');
}

/** Octets of a message, in lines of 78. @param size a multiple of 78. */
export function makeLines(size: number): Buffer {
  return Buffer.alloc(size, `${'The quick brown fox jumps over the lazy dog. '.repeat(2).slice(0, 76)}\r\n`);
}

function expect(reply: string, digit: string): void {
  if (!reply.startsWith(digit)) throw new Error(`the server sent ${JSON.stringify(reply)}`);
}
