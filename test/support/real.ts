import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';

/** The output of a command, and how it ended. */
export interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command to its end; one that does not end does so after 30 s. */
export function run(
  [file = '', ...args]: readonly string[],
  { input = '', environment = {} }: { input?: string; environment?: NodeJS.ProcessEnv } = {},
): Promise<Outcome> {
  const child = spawn(file, args, { env: { ...process.env, ...environment }, timeout: 30_000 });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (bytes: Buffer) => {
    stdout += bytes.toString('latin1');
  });
  child.stderr.on('data', (bytes: Buffer) => {
    stderr += bytes.toString('latin1');
  });
  // A command need not read its input.
  child.stdin.on('error', () => {});
  child.stdin.end(input);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) => resolve({ status, stdout, stderr }));
  });
}

/** A running tcpserver. */
export interface TcpServer {
  readonly port: number;
  /** What it and all processes below it have written to stderr so far. */
  stderr(): string;
}

/** Has tcpserver start a command for each connection, until the end of the test. */
export async function tcpserver(
  t: TestContext,
  command: readonly string[],
  environment: NodeJS.ProcessEnv = {},
): Promise<TcpServer> {
  // No look-up of names, and the port that it has got on stdout.
  const options = ['-H', '-R', '-l', 'localhost', '-1', '127.0.0.1', '0'];
  const child = spawn('tcpserver', [...options, ...command], {
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stderr = '';
  child.stderr.on('data', (bytes: Buffer) => {
    stderr += bytes.toString('latin1');
  });
  const ended = new Promise<void>((resolve, reject) => {
    child.on('exit', () => resolve());
    child.on('error', reject);
  });
  t.after(async () => {
    child.kill('SIGTERM');
    await ended;
  });
  const lines = createInterface({ input: child.stdout });
  const port = await Promise.race([
    new Promise<number>((resolve) => lines.once('line', (line) => resolve(Number(line)))),
    ended.then(() => Promise.reject(new Error(`tcpserver has ended: ${stderr}`))),
  ]);
  return { port, stderr: () => stderr };
}
