import { connect, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TestContext } from 'node:test';
import { type ConnectionOptions, type TLSSocket, connect as tlsConnect } from 'node:tls';
import { within } from './within.ts';

/** A client that sends only what a test sends through it. */
export interface SmtpClient {
  /** Sends bytes as they are. */
  send(bytes: string | Uint8Array): void;
  /** Sends lines, each with CRLF, in one piece. */
  sendLines(...lines: string[]): void;
  /** The next whole reply, its lines joined by "\n". Rejects when the connection ends before that. */
  reply(): Promise<string>;
  /** Sends a line and returns the reply. */
  ask(line: string): Promise<string>;
  /** Sends STARTTLS, expects 220 and does the handshake. */
  startTls(options?: ConnectionOptions): Promise<void>;
  /** Does the handshake, the 220 being read already. */
  shakeHands(options?: ConnectionOptions): Promise<void>;
  /** Half-closes. */
  end(): void;
  /** Closes at once. */
  destroy(): void;
  /** All that comes until the other side ends. */
  rest(): Promise<string>;
  /** Stops and resumes reading. */
  pause(): void;
  resume(): void;
  /** The socket in use: of TCP, or of TLS once it was started. */
  socket(): Duplex;
  /** The socket of TCP. */
  tcp(): Socket;
  /** The TLS socket; throws while there is none. */
  tls(): TLSSocket;
}

/**
 * Connects to 127.0.0.1, or elsewhere.
 *
 * @param options the host to connect to, and the address to connect from; how long the client waits for a
 * reply, a handshake or the end of the connection, in milliseconds, before it rejects (no limit by default).
 */
export async function connectSmtp(
  port: number,
  {
    limit,
    ...ends
  }: { readonly host?: string; readonly localAddress?: string; readonly limit?: number } = {},
): Promise<SmtpClient> {
  const tcp = connect({ port, host: '127.0.0.1', ...ends, allowHalfOpen: true, noDelay: true });
  await new Promise<void>((resolve, reject) => {
    tcp.once('connect', resolve);
    tcp.once('error', reject);
  });
  return createClient(tcp, limit);
}

/** The same, and closes the connection at the end of a test. */
export async function connectTo(t: TestContext, { port }: { readonly port: number }): Promise<SmtpClient> {
  const client = await connectSmtp(port);
  t.after(client.destroy);
  return client;
}

/** The same, greets, starts TLS and sends EHLO again. */
export async function connectTls(t: TestContext, server: { readonly port: number }): Promise<SmtpClient> {
  const client = await connectTo(t, server);
  await client.reply();
  await client.ask('EHLO clear.example');
  await client.startTls();
  await client.ask('EHLO tls.example');
  return client;
}

function createClient(tcp: Socket, limit: number | undefined): SmtpClient {
  let stream: Duplex = tcp;
  let tlsSocket: TLSSocket | undefined;
  let received = '';
  let over: Error | 'end' | undefined;
  const checks = new Set<() => void>();
  const check = (): void => {
    for (const one of checks) one();
  };

  function attach(to: Duplex): void {
    stream = to;
    to.on('data', (bytes: Buffer) => {
      if (stream !== to) return;
      received += bytes.toString('latin1');
      check();
    });
    for (const event of ['end', 'close'] as const) {
      to.on(event, () => {
        if (stream !== to) return;
        over ??= 'end';
        check();
      });
    }
    to.on('error', (error) => {
      over ??= error;
      check();
    });
  }
  attach(tcp);

  /** Waits for something, at most until the limit. */
  function bounded<T>(what: string, promise: Promise<T>): Promise<T> {
    if (limit === undefined) return promise;
    return within(limit, () => `${what} after ${JSON.stringify(received.slice(-200))}`, promise);
  }

  function until<T>(what: string, look: () => T | undefined): Promise<T> {
    const promise = new Promise<T>((resolve, reject) => {
      const one = (): void => {
        const found = look();
        if (found !== undefined) resolve(found);
        else if (over !== undefined) {
          reject(
            over === 'end' ? new Error(`the connection has ended after ${JSON.stringify(received)}`) : over,
          );
        } else return;
        checks.delete(one);
      };
      checks.add(one);
      one();
    });
    return bounded(what, promise);
  }

  const client: SmtpClient = {
    send: (bytes) => stream.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes),
    sendLines: (...lines) => client.send(lines.map((line) => `${line}\r\n`).join('')),
    reply: () =>
      until('whole reply', () => {
        const match = /^(?:\d{3}-[^\n]*\n)*\d{3}(?: [^\n]*)?\n/.exec(received);
        if (match === null) return undefined;
        received = received.slice(match[0].length);
        return match[0].replaceAll('\r\n', '\n').trimEnd();
      }),
    ask: (line) => {
      client.sendLines(line);
      return client.reply();
    },
    startTls: async (options) => {
      const reply = await client.ask('STARTTLS');
      if (!reply.startsWith('220 ')) throw new Error(`STARTTLS was answered ${reply}`);
      await client.shakeHands(options);
    },
    shakeHands: async (options = {}) => {
      tcp.removeAllListeners('data');
      const secure = tlsConnect({ socket: tcp, rejectUnauthorized: false, ...options });
      const done = new Promise<void>((resolve, reject) => {
        secure.once('secureConnect', resolve);
        secure.once('error', reject);
        secure.once('close', () => reject(new Error('the connection has ended in the handshake')));
      });
      await bounded('end of the handshake', done);
      received = '';
      tlsSocket = secure;
      attach(secure);
    },
    end: () => stream.end(),
    destroy: () => tcp.destroy(),
    rest: () =>
      until('end of the connection', () => {
        if (over === undefined) return undefined;
        const all = received;
        received = '';
        return all;
      }),
    pause: () => stream.pause(),
    resume: () => stream.resume(),
    socket: () => stream,
    tcp: () => tcp,
    tls: () => {
      if (tlsSocket === undefined) throw new Error('TLS was not started');
      return tlsSocket;
    },
  };
  return client;
}
