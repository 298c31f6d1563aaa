/** Ways to have the programs print messages, with a certificate unless the environment is changed. */

import { connect } from 'node:net';
import type { TestContext } from 'node:test';
import { ours } from './programs.ts';
import { run } from './real.ts';
import { serverEnvironment, startServer } from './server.ts';

/** An smtpd that answers everything with 250. */
export const SMTPD = [
  'sh',
  '-c',
  `printf '220 here ESMTP\\r\\n'
while read -r line; do
  case $line in QUIT*) printf '221 bye\\r\\n'; exit;; *) printf '250 here\\r\\n';; esac
done`,
];

/** Gives all that the programs have printed, so far and to clients. */
export type Produce = (t: TestContext) => Promise<() => string>;

/** A message that a document quotes, and how it comes about. */
export interface Case {
  readonly message: string;
  readonly skip?: string | false;
  readonly produce: Produce;
}

/** A command that ends by itself. */
export function ends(command: readonly string[], changes: NodeJS.ProcessEnv = {}): Produce {
  return async () => {
    const all = serverEnvironment(changes);
    const { stdout, stderr } = await run(['env', '-i', ...assignments(all), ...command]);
    return () => stdout + stderr;
  };
}

function assignments(variables: NodeJS.ProcessEnv): string[] {
  return Object.entries(variables)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${value}`);
}

/** The server, with these options and this smtpd, which ends at once. */
export function refuses(
  options: readonly string[],
  changes: NodeJS.ProcessEnv = {},
  smtpd = ['cat'],
): Produce {
  return ends([ours('smtpd-starttls-server'), ...options, '127.0.0.1', '0', ...smtpd], changes);
}

/** A client of a running server; returns what it received. */
export type Client = (port: number) => Promise<string>;

/** A server, and a client of it. */
export function serves(
  options: readonly string[],
  client: Client,
  smtpd: readonly string[] = SMTPD,
  changes: NodeJS.ProcessEnv = {},
): Produce {
  return async (t) => {
    const server = await startServer(['-v', '2', ...options], smtpd, { environment: changes });
    t.after(server.close);
    const received = await client(server.port);
    return () => received + server.stderr();
  };
}

/** Sends lines, each after a reply, and returns all that came until the other side has closed. */
export const sends =
  (...lines: string[]): Client =>
  (port) =>
    new Promise((resolve) => {
      let received = '';
      const socket = connect(port, '127.0.0.1');
      socket.on('data', (bytes: Buffer) => {
        received += bytes.toString('latin1');
        const line = /^\d{3} .*\r\n$/m.test(received) ? lines.shift() : undefined;
        if (line !== undefined) socket.write(`${line}\r\n`);
      });
      socket.on('error', () => {});
      socket.on('close', () => resolve(received));
    });

/** The same, and half-closes after the reply to the last one. */
export const leavesAfter =
  (...lines: string[]): Client =>
  (port) =>
    new Promise((resolve) => {
      let received = '';
      const socket = connect(port, '127.0.0.1');
      socket.on('data', (bytes: Buffer) => {
        received += bytes.toString('latin1');
        if (!/^\d{3} .*\r\n$/m.test(received)) return;
        const line = lines.shift();
        if (line === undefined) socket.end();
        else socket.write(`${line}\r\n`);
      });
      socket.on('error', () => {});
      socket.on('close', () => resolve(received));
    });

/** Sends this without waiting for a greeting. */
export const sendsAtOnce =
  (text: string): Client =>
  (port) =>
    new Promise((resolve) => {
      let received = '';
      const socket = connect(port, '127.0.0.1', () => socket.write(text));
      socket.on('data', (bytes: Buffer) => {
        received += bytes.toString('latin1');
      });
      socket.on('error', () => {});
      socket.on('close', () => resolve(received));
    });

/** A TLS client. */
const openssl =
  (...options: string[]): Client =>
  async (port) => {
    const { stdout, stderr } = await run([
      'openssl',
      's_client',
      '-connect',
      `127.0.0.1:${port}`,
      ...options,
    ]);
    return stdout + stderr;
  };
/** The same, by STARTTLS. */
export const startTls = (...options: string[]): Client => openssl('-starttls', 'smtp', ...options);

/** Keeps a connection open while another client connects. */
export const secondOf =
  (t: TestContext, client: Client): Client =>
  async (port) => {
    const first = connect(port, '127.0.0.1');
    t.after(() => first.destroy());
    await new Promise((resolve) => first.once('data', resolve));
    return client(port);
  };
