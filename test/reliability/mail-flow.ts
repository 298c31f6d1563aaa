import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';
import { openInTls, sendMessage } from './crowd.ts';

/** The outcome of a message, as its client sees it. */
export interface Sent {
  readonly id: string;
  /** The reply behind its final dot; undefined when the connection ended before there was one. */
  readonly reply: string | undefined;
}

/** Clients that send messages one by one until their server shuts down. */
export interface MailFlow {
  /** How many messages were answered with 250 so far. */
  accepted(): number;
  /** Settles when so many more were accepted. */
  more(count: number): Promise<void>;
  /** Makes the clients send QUIT after the current message. */
  stop(): void;
  /** Settles when no client is left: with all messages, and what each client that did not send QUIT received last. */
  readonly ended: Promise<{ sent: readonly Sent[]; closingReplies: readonly string[] }>;
}

/**
 * Sends messages through a server continuously.
 *
 * @param clients how many there are at once, half of them in TLS.
 * @param perSession after how many messages a client sends QUIT and another one takes its place.
 */
export function startMailFlow(port: number, clients: number, perSession: number): MailFlow {
  const sent: Sent[] = [];
  const closingReplies: string[] = [];
  const checks = new Set<() => void>();
  let accepted = 0;
  let isOver = false;
  let last = 0;

  async function keepOn(tls: boolean): Promise<void> {
    while (!isOver) {
      let client: SmtpClient;
      try {
        client = tls ? await openInTls(port) : await openInCleartext(port);
      } catch (error) {
        // No more connections are taken, or this one was in the midst of its beginning.
        closingReplies.push(String(error));
        return;
      }
      if (!(await holdSession(client))) return;
    }
  }

  /** @returns whether the server was there until the end. */
  async function holdSession(client: SmtpClient): Promise<boolean> {
    try {
      for (let count = 0; count < perSession && !isOver; count++) await sendOne(client);
      client.sendLines('QUIT');
      const words = await client.rest();
      client.end();
      if (words.startsWith('221')) return true;
      closingReplies.push(words);
    } catch (error) {
      closingReplies.push(String(error));
      client.destroy();
    }
    return false;
  }

  async function sendOne(client: SmtpClient): Promise<void> {
    last += 1;
    const id = `message-${last}`;
    let reply: string | undefined;
    try {
      reply = await sendMessage(client, `X-Number: ${id}\r\n\r\nhello`);
    } finally {
      sent.push({ id, reply });
    }
    if (!reply.startsWith('250')) throw new Error(reply);
    accepted += 1;
    for (const check of checks) check();
  }

  const ended = Promise.all(Array.from({ length: clients }, (_, at) => keepOn(at % 2 === 0)));
  return {
    accepted: () => accepted,
    more: (count) =>
      new Promise((resolve, reject) => {
        const goal = accepted + count;
        const check = (): void => {
          if (accepted < goal) return;
          checks.delete(check);
          resolve();
        };
        checks.add(check);
        void ended.then(() => reject(new Error(`no client is left: ${closingReplies.join(' ')}`)));
      }),
    stop: () => {
      isOver = true;
    },
    ended: ended.then(() => ({ sent, closingReplies })),
  };
}

async function openInCleartext(port: number): Promise<SmtpClient> {
  const client = await connectSmtp(port);
  const greeting = await client.reply();
  const hello = greeting.startsWith('220') ? await client.ask('EHLO client.example') : greeting;
  if (hello.startsWith('250')) return client;
  client.destroy();
  throw new Error(hello);
}

/** How often each message of a flow lies in a Maildir. */
export function readMaildir(maildir: string): ReadonlyMap<string, number> {
  const found = new Map<string, number>();
  for (const name of readdirSync(join(maildir, 'new'))) {
    const id = /^X-Number: (.*)$/m.exec(readFileSync(join(maildir, 'new', name), 'latin1'))?.[1] ?? '';
    found.set(id, (found.get(id) ?? 0) + 1);
  }
  return found;
}
