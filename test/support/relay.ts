/** Runs smtp-relay-io, or another program, with the test as its client. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { TestContext } from 'node:test';
import { type FarServer, type FarServerOptions, startFarServer } from './far-server.ts';
import { ours } from './programs.ts';
import { DEADLINE, within } from './within.ts';

/** A running smtp-relay-io, or another program on descriptors 0 and 1. */
export interface Relay {
  readonly child: ChildProcess;
  /** Sends lines, each with CRLF, in one piece. */
  send(...lines: string[]): void;
  /** The next whole reply, its lines joined by "\n". Rejects when the output ends before that. */
  reply(): Promise<string>;
  /** Sends a line and returns the reply. */
  ask(line: string): Promise<string>;
  /** Half-closes. */
  end(): void;
  /** All output that is left, up to its end. */
  rest(): Promise<string>;
  /** Waits for the exit and returns the status; what the signal is called if it was one. */
  readonly status: Promise<number | string>;
  /** What was written to stderr so far; all of it after `status`. */
  stderr(): string;
}

/** Starts smtp-relay-io with the words of a command line, until the test ends. */
export function startRelay(
  t: TestContext,
  words: readonly string[],
  environment: NodeJS.ProcessEnv = {},
): Relay {
  return startOurs(t, 'smtp-relay-io', words, environment);
}

/** The same with another of our programs. */
export function startOurs(
  t: TestContext,
  program: string,
  words: readonly string[],
  environment: NodeJS.ProcessEnv = {},
): Relay {
  const child = spawn(ours(program), words, {
    stdio: 'pipe',
    env: { PATH: process.env.PATH, ...environment },
  });
  t.after(() => child.kill('SIGKILL'));
  let output = '';
  let errors = '';
  let hasEnded = false;
  let check: () => void = () => {};
  const exited = once(child, 'close').then(([code, signal]): number | string => code ?? signal);
  child.stdin.on('error', () => {});
  child.stdout.on('data', (bytes: Buffer) => {
    output += bytes.toString('latin1');
    check();
  });
  child.stdout.on('close', () => {
    hasEnded = true;
    check();
  });
  child.stderr.on('data', (bytes: Buffer) => {
    errors += bytes.toString('latin1');
  });

  function until<T>(what: string, look: () => T | undefined): Promise<T> {
    const found = new Promise<T>((resolve, reject) => {
      check = () => {
        const one = look();
        if (one !== undefined) {
          // What comes later is for the next call.
          check = () => {};
          resolve(one);
        } else if (hasEnded) reject(new Error(`the output ended after ${JSON.stringify(output)}: ${errors}`));
      };
      check();
    });
    return within(DEADLINE, () => `${what} after ${JSON.stringify(output)}: ${errors}`, found);
  }

  const relay: Relay = {
    child,
    send: (...lines) => void child.stdin.write(lines.map((line) => `${line}\r\n`).join(''), 'latin1'),
    reply: () =>
      until('whole reply', () => {
        const match = /^(?:\d{3}-[^\n]*\n)*\d{3}(?: [^\n]*)?\n/.exec(output);
        if (match === null) return undefined;
        output = output.slice(match[0].length);
        return match[0].replaceAll('\r\n', '\n').trimEnd();
      }),
    ask: (line) => {
      relay.send(line);
      return relay.reply();
    },
    end: () => void child.stdin.end(),
    rest: () => until('end of the output', () => (hasEnded ? output : undefined)),
    status: within(DEADLINE, () => `exit after ${JSON.stringify(output)}: ${errors}`, exited),
    stderr: () => errors,
  };
  relay.status.catch(() => {});
  return relay;
}

/** What sends commands and reads replies: a relay, or a client of a server. */
type Commands = Pick<Relay, 'reply' | 'ask' | 'end'>;

/** Reads the greeting and sends a message, up to QUIT. @returns the reply that refused it; undefined if it was accepted. */
export async function sendMessage(relay: Commands): Promise<string | undefined> {
  await relay.reply();
  return sendMail(relay);
}

/** The same after the greeting. */
export async function sendMail(relay: Commands): Promise<string | undefined> {
  const commands = [
    'EHLO client.example',
    'MAIL FROM:<a@client.example>',
    'RCPT TO:<b@far.example>',
    'DATA',
    'Hi.\r\n.',
  ];
  for (const command of commands) {
    const reply = await relay.ask(command);
    if (!/^[23]/.test(reply)) {
      await quit(relay);
      return reply;
    }
  }
  await quit(relay);
  return undefined;
}

/** Sends QUIT and closes. */
export async function quit(relay: Commands): Promise<void> {
  await relay.ask('QUIT');
  relay.end();
}

/** A relay, and the server that it passes mail on to. */
export interface Both {
  readonly server: FarServer;
  readonly relay: Relay;
  readonly greeting: string;
  received(): string;
}

/**
 * Starts a server and a relay to it by smtp://, and reads the greeting.
 *
 * @param words options of the relay, whose name is relay.example.
 * @returns `received` gives what all connections of the server have received.
 */
export async function startBoth(
  t: TestContext,
  options: FarServerOptions,
  ...words: string[]
): Promise<Both> {
  const server = await startFarServer(t, options);
  const relay = startRelay(t, ['-l', 'relay.example', ...words, `smtp://localhost:${server.port}`]);
  const greeting = await relay.reply();
  return {
    server,
    relay,
    greeting,
    received: () => server.connections.map(({ cleartext }) => cleartext).join('|'),
  };
}
