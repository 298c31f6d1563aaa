import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { ours } from '../support/programs.ts';

/** A path for a Maildir that does not exist yet, in a folder that is removed after the test. */
export function newMaildir(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'smtpd-maildir-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, 'Maildir');
}

/** The names of the files in a part of a Maildir. */
export function filesIn(maildir: string, part: 'tmp' | 'new'): string[] {
  return readdirSync(join(maildir, part));
}

/** The messages in new/, in the order of delivery, without the trace header fields. */
export function textsIn(maildir: string): string[] {
  return messagesIn(maildir).map((message) => message.replace(/^Return-Path: (?:.*\n)*? {2}\w{3}, .*\n/, ''));
}

/** The messages in new/, in the order of delivery. */
export function messagesIn(maildir: string): string[] {
  const order = (name: string): number => Number(/Q(\d+)\./.exec(name)?.[1]);
  const names = filesIn(maildir, 'new').sort((one, other) => order(one) - order(other));
  return names.map((name) => readFileSync(join(maildir, 'new', name), 'latin1'));
}

/** How to start a server. */
export interface ServerSetup {
  /** Its arguments. */
  readonly args: readonly string[];
  readonly environment?: NodeJS.ProcessEnv;
  /** A script for sh that runs "$@", the server, for example with resource limits. */
  readonly script?: string;
  /** A connection for its descriptors 0 and 1; socket pairs without it. */
  readonly connection?: Socket;
}

/** A running server, and the client's side of it. */
export interface Server {
  readonly process: ChildProcess;
  readonly pid: number;
  /** Sends lines, each with CRLF, in one write. */
  send(...lines: readonly string[]): void;
  /** Waits until the unread output matches, and consumes it up to the end of the match. */
  waitFor(pattern: RegExp): Promise<void>;
  /** Sends a line and waits for the reply. */
  request(line: string, pattern: RegExp): Promise<void>;
  /** The exit status, once the server has exited; null after a signal. Rejects after END_TIMEOUT. */
  readonly ended: Promise<number | null>;
  /** The output that was not consumed by `waitFor`. */
  unread(): string;
  stderr(): string;
}

/** How long a test waits for a reply, in milliseconds. */
const REPLY_TIMEOUT = 20_000;

/** How long a server may run, in milliseconds. */
const END_TIMEOUT = 60_000;

/** Starts a server. It is killed after the test. */
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
  let exited = false;
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
      reject(
        new Error(
          `the server has not exited within ${END_TIMEOUT} ms; unread: ${JSON.stringify(unread)}, stderr: ${stderr}`,
        ),
      );
    }, END_TIMEOUT);
    child.on('close', (status) => {
      clearTimeout(limit);
      exited = true;
      check();
      resolve(status);
    });
  });
  // Not every test waits for it.
  ended.catch(() => {});

  function waitFor(pattern: RegExp): Promise<void> {
    return new Promise((resolve, reject) => {
      const limit = setTimeout(() => {
        reject(new Error(`no ${pattern} within ${REPLY_TIMEOUT} ms in ${JSON.stringify(unread)}`));
      }, REPLY_TIMEOUT);
      check = () => {
        const match = pattern.exec(unread);
        if (match === null && !exited) return;
        clearTimeout(limit);
        if (match !== null) {
          unread = unread.slice(match.index + match[0].length);
          check = () => {};
          resolve();
        } else reject(new Error(`the server has exited; no ${pattern} in ${JSON.stringify(unread)}`));
      };
      check();
    });
  }

  function send(...lines: readonly string[]): void {
    child.stdin?.write(Buffer.from(lines.map((line) => `${line}\r\n`).join(''), 'latin1'));
  }

  assert.ok(child.pid !== undefined);
  return {
    process: child,
    pid: child.pid,
    send,
    waitFor,
    request: (line, pattern) => {
      send(line);
      return waitFor(pattern);
    },
    ended,
    unread: () => unread,
    stderr: () => stderr,
  };
}

/** The commands of a session up to DATA. */
export const TO_DATA = ['EHLO me', 'MAIL FROM:<a@b>', 'RCPT TO:<c@d>', 'DATA'];
