import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { type Served, serve } from './chain.ts';
import { fixture, ours } from './programs.ts';

/** The descriptors of a program under a UCSPI-TLS server. */
export type Descriptor = 'stdin' | 'stdout' | 'control' | 'read' | 'write';

/** The size and the SHA-256 of a transfer. */
export interface Digest {
  readonly size: number;
  readonly sha256: string;
}

/** A program that ucspi-tlsd runs and a test controls. */
export interface ControlledProgram {
  readonly pid: number;
  /** The process number of its parent, ucspi-tlsd. */
  readonly parent: number;
  readonly environment: NodeJS.ProcessEnv;
  /** The next bytes; empty at the end. */
  read(from: Descriptor): Promise<Buffer>;
  /** All bytes until the end. */
  readAll(from: Descriptor): Promise<Buffer>;
  write(to: Descriptor, bytes: string | Uint8Array): Promise<void>;
  close(what: Descriptor): Promise<void>;
  /** Writes no more: shutdown(2) with SHUT_WR, and the descriptor stays open. */
  halfClose(what: Descriptor): Promise<void>;
  /** Reads until the end, and returns the digest of that. */
  hash(from: Descriptor): Promise<Digest>;
  /** Writes a piece so many times, each time with a number and a colon in front, as `poured` does. */
  pour(to: Descriptor, piece: string, count: number): Promise<void>;
  /** Catches a signal from now on; see `caught`. */
  catch(signal: NodeJS.Signals): Promise<void>;
  /** The next signal that was caught. */
  caught(): Promise<string>;
  /** Ends with a status, or by a signal. */
  exit(status: number): void;
  die(signal: NodeJS.Signals): void;
}

/** A client, ucspi-tlsd and its program. */
export interface TlsdRun {
  readonly client: Socket;
  readonly tlsd: Served;
  readonly program: ControlledProgram;
}

/** How ucspi-tlsd is to be started. */
export interface TlsdSetup {
  readonly options?: readonly string[];
  readonly environment?: NodeJS.ProcessEnv;
}

/** Starts ucspi-tlsd with a controlled program, and connects to it. All of it ends with the test. */
export async function runTlsd(t: TestContext, { options, environment }: TlsdSetup): Promise<TlsdRun> {
  const listener = await listenForProgram();
  const command = [ours('ucspi-tlsd'), ...(options ?? []), '--', ...fixture('controlled-program')];
  const chain = await serve(command, { ...environment, CONTROL_PORT: String(listener.port) });
  const client = await connectTcp(chain.port);
  t.after(async () => {
    client.destroy();
    await chain.close();
    listener.close();
  });
  const tlsd = await chain.served(0);
  const over = tlsd.ended.then(() => {
    throw new Error(`ucspi-tlsd has ended before its program started: ${tlsd.stderr()}`);
  });
  // Only the first of the two counts: later ucspi-tlsd is expected to end.
  return { client, tlsd, program: await Promise.race([listener.program, over]) };
}

/** Connects to 127.0.0.1 in cleartext. */
export async function connectTcp(port: number): Promise<Socket> {
  const client = connect({ port, host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
  await new Promise<void>((resolve, reject) => {
    client.once('connect', resolve);
    client.once('error', reject);
  });
  // A test that depends on the end of the connection asserts it; others ignore a reset.
  client.on('error', () => {});
  return client;
}

/** What `pour` writes. */
export function* poured(piece: string, count: number): Generator<Buffer> {
  for (let n = 0; n < count; n++) yield Buffer.from(`${n}:${piece}`, 'latin1');
}

/** Waits for the connection of one program. */
async function listenForProgram(): Promise<{
  port: number;
  program: Promise<ControlledProgram>;
  close(): void;
}> {
  const server = createServer();
  let connection: Socket | undefined;
  const program = new Promise<ControlledProgram>((resolve) => {
    server.once('connection', (socket) => {
      connection = socket;
      socket.on('error', () => {});
      attach(socket, resolve);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    program,
    close: () => {
      server.close();
      connection?.destroy();
    },
  };
}

interface Answer {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: string;
}

function attach(socket: Socket, ready: (program: ControlledProgram) => void): void {
  const waiting = new Map<number, { resolve: (value: unknown) => void; reject: (why: Error) => void }>();
  let count = 0;
  let begun = false;

  function request(verb: string, more: Record<string, unknown> = {}): Promise<unknown> {
    count += 1;
    const id = count;
    socket.write(`${JSON.stringify({ id, verb, ...more })}\n`);
    return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
  }

  createInterface({ input: socket }).on('line', (line) => {
    if (begun) {
      const { id, result, error }: Answer = JSON.parse(line);
      if (error === undefined) waiting.get(id)?.resolve(result);
      else waiting.get(id)?.reject(new Error(`the program: ${error}`));
      waiting.delete(id);
    } else {
      begun = true;
      ready(createProgram(JSON.parse(line), request));
    }
  });
  socket.on('close', () => {
    for (const { reject } of waiting.values()) reject(new Error('the program has ended'));
  });
}

function createProgram(
  self: Pick<ControlledProgram, 'pid' | 'parent' | 'environment'>,
  request: (verb: string, more?: Record<string, unknown>) => Promise<unknown>,
): ControlledProgram {
  const { SSLCTLFD, SSLREADFD, SSLWRITEFD } = self.environment;
  const numbers: Readonly<Record<Descriptor, number>> = {
    stdin: 0,
    stdout: 1,
    control: Number(SSLCTLFD),
    read: Number(SSLREADFD),
    write: Number(SSLWRITEFD),
  };
  async function read(from: Descriptor): Promise<Buffer> {
    return Buffer.from(String(await request('read', { fd: numbers[from] })), 'base64');
  }
  return {
    ...self,
    read,
    readAll: async (from) => {
      const all: Buffer[] = [];
      for (let piece = await read(from); piece.length > 0; piece = await read(from)) all.push(piece);
      return Buffer.concat(all);
    },
    write: async (to, bytes) => {
      const data = typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : Buffer.from(bytes);
      await request('write', { fd: numbers[to], data: data.toString('base64') });
    },
    close: async (what) => {
      await request('close', { fd: numbers[what] });
    },
    halfClose: async (what) => {
      await request('half-close', { fd: numbers[what] });
    },
    hash: async (from) => (await request('hash', { fd: numbers[from] })) as Digest,
    pour: async (to, piece, count) => {
      await request('pour', { fd: numbers[to], data: piece, size: count });
    },
    catch: async (signal) => {
      await request('catch', { data: signal });
    },
    caught: async () => String(await request('caught')),
    // A program that has ended sends no answer.
    exit: (status) => void request('exit', { size: status }).catch(() => {}),
    die: (signal) => void request('die', { data: signal }).catch(() => {}),
  };
}
