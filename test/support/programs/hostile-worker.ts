/**
 * Loaded into smtpd-starttls-server by NODE_OPTIONS=--require: has a worker do what code may do that has taken it
 * over. The primary is left as it is. At SIGUSR2 it runs HOSTILE_ACTION, and writes the outcome to stderr as
 * "hostile: OUTCOME".
 */

import { spawnSync } from 'node:child_process';
import { readFileSync, writeSync } from 'node:fs';
import { createServer, type ListenOptions } from 'node:net';

/** Where a worker has its channel to the primary. */
const CHANNEL = 3;

const ACTIONS: Readonly<Record<string, (argument: string) => void>> = {
  /** Listens, with options of `listen` in JSON. */
  listen: (argument) => {
    const options: ListenOptions = JSON.parse(argument);
    const server = createServer();
    server.on('error', (error) => report('code' in error ? String(error.code) : error.message));
    server.listen(options, () => report('listening'));
  },
  /** Sends messages of its own: a list in JSON. */
  send: (argument) => {
    const messages: unknown[] = JSON.parse(argument);
    for (const message of messages) write(`${JSON.stringify(message)}\n`);
    report('sent');
  },
  /** Sends a text, a number of times: JSON with `text` and `times`, and `seconds` as in `write`. Reads nothing meanwhile. */
  flood: (argument) => {
    const { text, times, seconds }: { text: string; times: number; seconds?: number } = JSON.parse(argument);
    let sent = 0;
    while (
      sent < times &&
      write(
        text.replaceAll('%', () => String(sent)),
        seconds,
      )
    )
      sent += 1;
    report(sent === times ? 'flooded' : 'stalled');
  },
  /** Closes the channel and lives on, without noticing. */
  hangUp: () => {
    const script = 'import socket; socket.socket(fileno=3).shutdown(socket.SHUT_RDWR)';
    report(`shutdown ${python(script)}`);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  },
  /** Sends three descriptors over the channel. */
  pass: () => {
    const script = [
      'import array, socket',
      'rights = array.array("i", [0, 1, 2])',
      'channel = socket.socket(fileno=3)',
      'channel.sendmsg([b"{}\\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])',
    ].join('\n');
    report(`passed ${python(script)}`);
  },
};

if (isWorker()) {
  const action = ACTIONS[process.env.HOSTILE_ACTION ?? ''];
  process.on('SIGUSR2', () => action?.(process.env.HOSTILE_ARGUMENT ?? ''));
}

function isWorker(): boolean {
  return readFileSync(`/proc/${process.ppid}/cmdline`, 'latin1').includes('/smtpd-starttls-server\0');
}

function report(outcome: string): void {
  writeSync(2, `hostile: ${outcome}\n`);
}

/** Writes to the channel, and waits while it is full. @returns false when it has been so for some seconds. */
function write(text: string, seconds = 1): boolean {
  // A worker of node:cluster has another channel.
  if (process.send !== undefined) return process.send(JSON.parse(text)) || true;
  let rest = Buffer.from(text);
  for (let waited = 0; rest.length > 0; ) {
    try {
      rest = rest.subarray(writeSync(CHANNEL, rest));
      waited = 0;
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EAGAIN')) return false;
      if (waited >= 100 * seconds) return false;
      waited += 1;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
  }
  return true;
}

function python(script: string): number | null {
  return spawnSync('python3', ['-c', script], { stdio: ['ignore', 'ignore', 'inherit', CHANNEL] }).status;
}
