import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, rmSync } from 'node:fs';
import { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex, Readable, Writable } from 'node:stream';
import type { Traits } from './traits.ts';

/** A program under a UCSPI-TLS server, and the server's ends of its descriptors. */
export interface Program {
  readonly process: ChildProcess;
  readonly control: Duplex;
  /** What the program writes in the TLS session. */
  readonly output: Readable;
  /** What the program reads in the TLS session. */
  readonly input: Writable;
}

/** Starts the program of the command line with the descriptors that the traits ask for. */
export function startProgram({ numbers, environment }: Traits): Program {
  const [file = '', ...args] = process.argv.slice(2).filter((word) => !word.startsWith('--double='));
  const env = {
    ...process.env,
    ...environment,
    SSLCTLFD: String(numbers.control),
    SSLREADFD: String(numbers.read),
    SSLWRITEFD: String(numbers.write),
  };
  const isOne = numbers.control === numbers.read && numbers.control === numbers.write;
  const toProgram = isOne ? undefined : makeFifo();
  const fromProgram = isOne ? undefined : makeFifo();
  const stdio: ('inherit' | 'pipe' | 'ignore' | number)[] = ['inherit', 'inherit', 'inherit'];
  if (toProgram !== undefined) stdio[numbers.read] = toProgram.readEnd;
  if (fromProgram !== undefined) stdio[numbers.write] = fromProgram.writeEnd;
  stdio[numbers.control] = 'pipe';
  const child = spawn(file, args, { env, stdio });
  const control = child.stdio[numbers.control];
  if (!(control instanceof Socket)) throw new Error('there is no control socket');
  control.on('error', () => {});
  // A program may half-close it behind its command.
  control.allowHalfOpen = true;
  if (toProgram === undefined || fromProgram === undefined) {
    return { process: child, control, output: control, input: control };
  }
  closeSync(toProgram.readEnd);
  closeSync(fromProgram.writeEnd);
  const input = new Socket({ fd: toProgram.writeEnd, readable: false, writable: true });
  const output = new Socket({ fd: fromProgram.readEnd, readable: true, writable: false });
  for (const end of [input, output]) end.on('error', () => {});
  return { process: child, control, output, input };
}

/** A FIFO that has both its ends in this process and no name any more. */
function makeFifo(): { readEnd: number; writeEnd: number } {
  const folder = mkdtempSync(join(tmpdir(), 'fifo-'));
  const path = join(folder, 'fifo');
  execFileSync('mkfifo', [path]);
  // Non-blocking, or it would wait for the other end.
  const readEnd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const writeEnd = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  rmSync(folder, { recursive: true });
  return { readEnd, writeEnd };
}
