/**
 * Actions, separated by semicolons:
 *
 *     line TEXT          a line, CRLF added
 *     write TEXT         the same without CRLF; \r \n \0 as in C
 *     environment        a reply with the environment, as JSON
 *     data               reads a message up to its final dot; the reply has its size
 *     digest N           reads N octets; the reply has their SHA-256
 *     bulk N             reads and writes N octets at the same time; the reply has the SHA-256 of both
 *     bulk N slowly      the same, with a pause after each piece that is read
 *     flood N            writes N octets in lines that are replies
 *     flood-line N       writes N octets without the end of a line
 *     await-signal       makes the file RECORD.waits and waits for SIGUSR1
 *     await-end          reads up to the end of the input
 *     await-nothing      reads no more and stays
 *     close-input, close-output
 *     leave-child        starts a process that holds the standard output; its number is added to the record
 *     exit N
 *     die SIGNAL
 */

import { spawn } from 'node:child_process';
import { appendFileSync, closeSync, writeSync } from 'node:fs';
import { exchangeBulk } from './bulk.ts';
import type { Input } from './input.ts';
import { digestOf, readMessage } from './message.ts';

/** Carries actions out, one after the other. */
export interface Actor {
  act(actions: string): Promise<void>;
}

/** Makes an actor that reads `input` and writes to descriptor 1. */
export function createActor(input: Input, record: string): Actor {
  const signalled = new Promise<void>((resolve) => process.once('SIGUSR1', () => resolve()));

  async function act(actions: string): Promise<void> {
    for (const action of actions.split(/;\s*/)) {
      const [, name = '', text = ''] = /^(\S*) ?(.*)$/s.exec(action) ?? [];
      await one(name, text);
    }
  }

  async function one(name: string, text: string): Promise<void> {
    switch (name) {
      case '':
        return;
      case 'line':
        return write(`${text}\r\n`);
      case 'write':
        return write(text.replaceAll('\\r', '\r').replaceAll('\\n', '\n').replaceAll('\\0', '\0'));
      case 'environment':
        return write(`250 ${JSON.stringify(process.env)}\r\n`);
      case 'data':
        return write(`250 2.0.0 Queued ${await readMessage(input)}\r\n`);
      case 'digest':
        return write(`250 ${await digestOf(input, Number(text))}\r\n`);
      case 'bulk':
        return write(`\r\n250 ${await exchangeBulk(input, text)}\r\n`);
      case 'flood':
        return flood(Number(text), `250-${'x'.repeat(94)}\r\n`);
      case 'flood-line':
        return flood(Number(text), 'x'.repeat(100));
      case 'await-signal':
        appendFileSync(`${record}.waits`, '');
        return signalled;
      case 'await-end':
        return input.toEnd();
      case 'await-nothing':
        input.stop();
        return new Promise(() => {});
      case 'close-input':
        return input.close();
      case 'close-output':
        return closeSync(1);
      case 'leave-child':
        return leaveChild(record);
      case 'exit':
        process.exit(Number(text));
        break;
      case 'die':
        process.kill(process.pid, text as NodeJS.Signals);
        return new Promise(() => {});
      default:
        throw new Error(`no action: ${name}`);
    }
  }

  return { act };
}

/** Writes to descriptor 1, which blocks. Exits like a program in C when the reader is gone. */
function write(text: string): void {
  const bytes = Buffer.from(text, 'latin1');
  try {
    for (let done = 0; done < bytes.length; ) done += writeSync(1, bytes, done);
  } catch {
    process.kill(process.pid, 'SIGPIPE');
    process.exit(141);
  }
}

function flood(octets: number, line: string): void {
  const piece = line.repeat(100);
  for (let done = 0; done < octets; done += piece.length) write(piece);
}

function leaveChild(record: string): void {
  const child = spawn('sleep', ['600'], { stdio: ['ignore', 'inherit', 'ignore'], detached: true });
  child.unref();
  appendFileSync(record, `child ${child.pid}\n`);
}
