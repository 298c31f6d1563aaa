import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { ours } from '../support/programs.ts';

/** A path in a folder that is removed when the test has ended; there is nothing at the path yet. */
export function newMaildir(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'smtpd-maildir-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'Maildir');
}

/** The names of the files in a part of a Maildir. */
export function filesIn(maildir: string, part: 'tmp' | 'new'): string[] {
  return readdirSync(join(maildir, part));
}

/** The messages in new/, in the order of their delivery, without the lines that were put on top. */
export function textsIn(maildir: string): string[] {
  return messagesIn(maildir).map((message) => message.replace(/^Return-Path: (?:.*\n)*? {2}\w{3}, .*\n/, ''));
}

/** The messages in new/, in the order of their delivery. */
export function messagesIn(maildir: string): string[] {
  const order = (name: string): number => Number(/Q(\d+)\./.exec(name)?.[1]);
  const names = filesIn(maildir, 'new').sort((one, other) => order(one) - order(other));
  return names.map((name) => readFileSync(join(maildir, 'new', name), 'latin1'));
}

/** How the server is to be run. */
export interface ServerSetup {
  /** Its words behind the name of the program. */
  readonly args: readonly string[];
  readonly environment?: NodeJS.ProcessEnv;
  /** A script for sh that runs "$@", the server, with limits, say. */
  readonly script?: string;
  /** A connection for its descriptors 0 and 1. Otherwise they are socket pairs that lead to the test. */
  readonly connection?: Socket;
}

/** A server with its client. */
export interface Server {
  readonly process: ChildProcess;
  readonly pid: number;
  /** Says lines, each with CRLF, in one piece. */
  say(...lines: readonly string[]): void;
  /** Settles when the server has said something that matches, which with all before it is then read. */
  hears(pattern: RegExp): Promise<void>;
  /** Says lines and hears. */
  ask(line: string, pattern: RegExp): Promise<void>;
  /** Settles when the server has ended, with its exit status. Fails when that takes too long. */
  readonly ended: Promise<number | null>;
  /** What it has said and was not read. */
  unread(): string;
  stderr(): string;
}

/** How long a test waits for a reply, in milliseconds. */
const PATIENCE = 20_000;

/** How long a server may run, in milliseconds. */
const END_TIMEOUT = 60_000;

/** Starts a server. It is ended with the test. */
export function startServer(t: TestContext, { args, environment, script, connection }: ServerSetup): Server {
  const server = [ours('smtpd-maildir'), ...args];
  const [file = '', ...words] = script === undefined ? server : ['sh', '-c', script, 'sh', ...server];
  const ends = connection ?? 'pipe';
  const child = spawn(file, words, {
    stdio: [ends, ends, 'pipe'],
    env: { PATH: process.env.PATH, ...environment },
  });
  t.after(() => child.kill('SIGKILL'));
  let unread = '';
  let stderr = '';
  let over = false;
  let check = (): void => {};
  child.stdin?.on('error', () => {});
  child.stdout?.on('data', (bytes: Buffer) => {
    unread += bytes.toString('latin1');
    check();
  });
  child.stderr?.on('data', (bytes: Buffer) => {
    stderr += bytes.toString('latin1');
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    const limit = setTimeout(() => {
      reject(new Error(`the server has not ended; unread: ${JSON.stringify(unread)}, stderr: ${stderr}`));
    }, END_TIMEOUT);
    child.on('close', (status) => {
      clearTimeout(limit);
      over = true;
      check();
      resolve(status);
    });
  });
  // Not every test waits for it.
  ended.catch(() => {});

  function hears(pattern: RegExp): Promise<void> {
    return new Promise((resolve, reject) => {
      const limit = setTimeout(() => {
        reject(new Error(`the server has said ${JSON.stringify(unread)}, but not ${pattern}`));
      }, PATIENCE);
      check = () => {
        const match = pattern.exec(unread);
        if (match === null && !over) return;
        clearTimeout(limit);
        if (match !== null) {
          unread = unread.slice(match.index + match[0].length);
          check = () => {};
          resolve();
        } else reject(new Error(`the server has ended and said ${JSON.stringify(unread)}`));
      };
      check();
    });
  }

  function say(...lines: readonly string[]): void {
    child.stdin?.write(Buffer.from(lines.map((line) => `${line}\r\n`).join(''), 'latin1'));
  }

  assert.ok(child.pid !== undefined);
  return {
    process: child,
    pid: child.pid,
    say,
    hears,
    ask: (line, pattern) => {
      say(line);
      return hears(pattern);
    },
    ended,
    unread: () => unread,
    stderr: () => stderr,
  };
}

/** A session up to the 354, in lines. */
export const TO_DATA = ['EHLO me', 'MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'DATA'];
