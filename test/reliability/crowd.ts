import { createSecureContext } from 'node:tls';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';

/** One for all clients: creating one costs more than a handshake. */
const CONTEXT = createSecureContext();

/**
 * Does something `count` times, `atOnce` at a time.
 *
 * @param act receives the number of its turn, from 0. When one fails no more are started.
 * @returns the results, in order.
 */
export async function inTurns<T>(
  count: number,
  atOnce: number,
  act: (turn: number) => Promise<T>,
): Promise<T[]> {
  const results: T[] = [];
  let next = 0;
  let hasFailed = false;
  async function goOn(): Promise<void> {
    while (next < count && !hasFailed) {
      const turn = next;
      next += 1;
      try {
        results[turn] = await act(turn);
      } catch (error) {
        hasFailed = true;
        throw error;
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, count) }, goOn));
  return results;
}

/** Opens a session as an ordinary client does, up to and with the EHLO in TLS. */
export async function openInTls(port: number): Promise<SmtpClient> {
  const client = await connectSmtp(port);
  await expect(client, client.reply(), '220');
  await expect(client, client.ask('EHLO client.example'), '250');
  await client.startTls({ secureContext: CONTEXT });
  await expect(client, client.ask('EHLO client.example'), '250');
  return client;
}

/** Sends a message and returns the reply to it. */
export async function sendMessage(client: SmtpClient, text: string): Promise<string> {
  await expect(client, client.ask('MAIL FROM:<sender@client.example>'), '250');
  await expect(client, client.ask('RCPT TO:<recipient@mail.example.org>'), '250');
  await expect(client, client.ask('DATA'), '354');
  return client.ask(`${text}\r\n.`);
}

/** Sends QUIT, waits until the server has closed, and closes. */
export async function quit(client: SmtpClient): Promise<void> {
  await expect(client, client.ask('QUIT'), '221');
  await client.rest();
  client.end();
}

/** @throws Error when the reply has another code; the connection is closed then. */
async function expect(client: SmtpClient, reply: Promise<string>, code: string): Promise<void> {
  const text = await reply;
  if (text.startsWith(code)) return;
  client.destroy();
  throw new Error(`expected ${code}, received ${JSON.stringify(text)}`);
}
