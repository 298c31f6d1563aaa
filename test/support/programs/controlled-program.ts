/**
 * A program for ucspi-tlsd to run, which does only what a test requests.
 *
 * It connects to CONTROL_PORT, where each request and each answer is a line with a JSON object. Descriptors are read
 * and written by plain system calls on the thread pool, which change nothing about them.
 */

import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { close, read, write } from 'node:fs';
import { connect } from 'node:net';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';

interface Request {
  readonly id: number;
  readonly verb: string;
  readonly fd: number;
  readonly data: string;
  readonly size: number;
}

const readDescriptor = promisify(read);
const writeDescriptor = promisify(write);
const closeDescriptor = promisify(close);

const test = connect(Number(process.env.CONTROL_PORT), '127.0.0.1');
const caught: string[] = [];
let wake: () => void = () => {};
test.write(`${JSON.stringify({ pid: process.pid, parent: process.ppid, environment: process.env })}\n`);
test.on('error', () => process.exit(1));
// Without a test nothing else ends this process.
test.on('close', () => process.exit(1));

createInterface({ input: test }).on('line', async (line) => {
  const request: Request = JSON.parse(line);
  try {
    test.write(`${JSON.stringify({ id: request.id, result: await execute(request) })}\n`);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    test.write(`${JSON.stringify({ id: request.id, error: message })}\n`);
  }
});

async function execute({ verb, fd, data, size }: Request): Promise<unknown> {
  switch (verb) {
    case 'read':
      return (await readSome(fd)).toString('base64');
    case 'write':
      return writeAll(fd, Buffer.from(data, 'base64'));
    case 'close':
      return closeDescriptor(fd);
    case 'half-close':
      // Node has no shutdown(2) for a number, and a net.Socket would make the descriptor non-blocking.
      execFileSync('perl', ['-e', 'open(S, "<&=", 3) && shutdown(S, 1) || die "$!\\n"'], {
        stdio: ['ignore', 'ignore', 'inherit', fd],
      });
      return undefined;
    case 'hash':
      return hash(fd);
    case 'pour':
      return pour(fd, data, size);
    case 'exit':
      return process.exit(size);
    case 'die':
      return process.kill(process.pid, data);
    case 'catch':
      process.on(data, () => {
        caught.push(data);
        wake();
      });
      return undefined;
    case 'caught':
      while (caught.length === 0) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
      return caught.shift();
    default:
      throw new Error(`no such verb: ${verb}`);
  }
}

/** The next bytes; empty at the end. */
async function readSome(fd: number): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(65536);
  const { bytesRead } = await readDescriptor(fd, buffer, 0, buffer.length, null);
  return buffer.subarray(0, bytesRead);
}

async function writeAll(fd: number, bytes: Buffer): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    at += (await writeDescriptor(fd, bytes, at, bytes.length - at)).bytesWritten;
  }
}

async function hash(fd: number): Promise<{ size: number; sha256: string }> {
  const digest = createHash('sha256');
  let size = 0;
  for (let bytes = await readSome(fd); bytes.length > 0; bytes = await readSome(fd)) {
    digest.update(bytes);
    size += bytes.length;
  }
  return { size, sha256: digest.digest('hex') };
}

/** Writes a piece so many times, each with its number in front. */
async function pour(fd: number, piece: string, count: number): Promise<void> {
  for (let n = 0; n < count; n++) await writeAll(fd, Buffer.from(`${n}:${piece}`, 'latin1'));
}
