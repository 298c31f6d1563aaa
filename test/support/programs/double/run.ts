/**
 * A UCSPI-TLS server that behaves as its traits define, right or wrong, but always in the same way. Unlike the real ones it stays the parent of the program, and ends as the program does.
 */

import { closeSync, openSync, readFileSync } from 'node:fs';
import { Socket } from 'node:net';
import { pipeline } from 'node:stream/promises';
import { createServer, type TLSSocket } from 'node:tls';
import { type Program, startProgram } from './start.ts';
import { type Traits, writeAnswer } from './traits.ts';

/** Serves the connection on descriptors 0 and 1 and the program of the command line. */
export async function runDouble(traits: Traits): Promise<void> {
  const program = startProgram(traits);
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    program.process.on('exit', (code, signal) => resolve({ code, signal }));
    program.process.on('error', () => resolve({ code: 111, signal: null }));
  });
  const released = new Promise<void>((resolve) => process.once('SIGUSR1', () => resolve()));
  await Promise.all([serveTls(traits, program, released), ended]);
  const { code, signal } = await ended;
  if (signal !== null) process.kill(process.pid, signal);
  process.exit(code ?? 111);
}

async function serveTls(traits: Traits, program: Program, released: Promise<void>): Promise<void> {
  const command = await readCommand(program);
  if (command === undefined) {
    if (traits.terminates) program.process.kill('SIGTERM');
    return leave(program);
  }
  if (traits.waits === true) await released;
  // Not before the program's command: until then the connection belongs to the program.
  const connection = new Socket({ fd: 0 });
  const client = await shakeHands(connection);
  if (client === undefined) {
    // In the order of an exiting server: the signal first, then the descriptors.
    if (traits.terminates) program.process.kill('SIGTERM');
    else for (const descriptor of [program.control, program.output, program.input]) descriptor.destroy();
    return;
  }
  const first = traits.isEager === true ? await firstBytes(client) : Buffer.alloc(0);
  if (command === 'Y' && !answer(traits, program, client, first)) return;
  if (command !== 'Y' && traits.closesControl) program.control.end();
  await relay(program, client);
  if (traits.terminates) program.process.kill('SIGTERM');
}

/** The first octet on the control socket; undefined when it is closed without one. */
async function readCommand({ control }: Program): Promise<string | undefined> {
  return new Promise((resolve) => {
    control.once('data', (bytes: Buffer) => {
      control.pause();
      resolve(bytes.toString('latin1', 0, 1));
    });
    control.once('close', () => resolve(undefined));
    control.once('end', () => resolve(undefined));
  });
}

/** The server leaves the connection to the program. */
function leave(program: Program): void {
  for (const descriptor of [program.control, program.output, program.input]) descriptor.destroy();
  for (const fd of [0, 1]) {
    closeSync(fd);
    openSync('/dev/null', 'r+');
  }
}

async function shakeHands(connection: Socket): Promise<TLSSocket | undefined> {
  const { CERTFILE = '', KEYFILE = '', CAFILE } = process.env;
  const server = createServer({
    cert: readFileSync(CERTFILE),
    key: readFileSync(KEYFILE),
    ...(CAFILE === undefined ? {} : { ca: readFileSync(CAFILE), requestCert: true }),
    rejectUnauthorized: false,
  });
  return new Promise((resolve) => {
    server.on('secureConnection', (socket) => {
      // Not earlier: an end in the middle of the handshake must close the connection.
      socket.allowHalfOpen = true;
      resolve(socket);
    });
    server.on('tlsClientError', () => {
      connection.destroy();
      resolve(undefined);
    });
    server.emit('connection', connection);
  });
}

async function firstBytes(client: TLSSocket): Promise<Buffer> {
  const bytes = new Promise<Buffer>((resolve) => client.once('data', resolve));
  await bytes;
  client.pause();
  return bytes;
}

/** Returns false when there is to be no session after it. */
function answer(traits: Traits, { control }: Program, client: TLSSocket, behind: Buffer): boolean {
  const right = Buffer.concat([writeAnswer(traits.describe(client)), behind]);
  const { next, pieces } = traits.answer?.(right) ?? { next: 'session', pieces: [right] };
  for (const piece of pieces) control.write(piece);
  if (next === 'die') process.kill(process.pid, 'SIGKILL');
  if (next === 'close' || (next === 'session' && traits.closesControl)) control.end();
  return next === 'session';
}

async function relay({ output, input, process: program }: Program, client: TLSSocket): Promise<void> {
  client.on('error', () => {});
  // Two pipelines add more listeners than Node expects.
  client.setMaxListeners(0);
  input.setMaxListeners(0);
  const closed = new Promise<void>((resolve) => client.on('close', () => resolve()));
  const up = pipeline(client, input).catch(() => {});
  const down = pipeline(output, client, { end: true }).catch(() => {});
  // Does not wait for a client that stays connected after the program has exited.
  const alone = new Promise<void>((resolve) => program.on('exit', () => resolve())).then(() => down);
  await Promise.race([Promise.all([up, down]), closed, alone]);
  for (const descriptor of [output, input]) descriptor.destroy();
}
