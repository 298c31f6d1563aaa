import type { Socket } from 'node:net';
import { createSecureContext } from 'node:tls';
import { connectSmtp, type SmtpClient } from '../support/smtp-client.ts';

const CONTEXT = createSecureContext();

/** How a client leaves. */
export const WAYS = ['half-closes', 'closes', 'resets', 'stays, and is silent'] as const;

/** How far a client comes, step by step. */
type Step = (client: SmtpClient) => Promise<unknown> | undefined;

/** The first record of a handshake announces 512 octets; these are some of them. */
const HALF_A_HELLO = Buffer.from(`1603010200010001fc0303${'00'.repeat(100)}`, 'hex');

const greeted: Step = (client) => client.reply();
const askedForTls: Step = (client) => client.ask('STARTTLS');
const inTls: Step = (client) => client.startTls({ secureContext: CONTEXT });
const inMessage: Step = async (client) => {
  for (const line of ['MAIL FROM:<a@client.example>', 'RCPT TO:<b@mail.example.org>', 'DATA'])
    await client.ask(line);
};
const send =
  (bytes: string | Buffer): Step =>
  (client) => {
    client.send(bytes);
    return undefined;
  };

/** The points of a session at which a client may leave. */
export const PHASES: Readonly<Record<string, readonly Step[]>> = {
  'before the greeting': [],
  'behind the greeting': [greeted],
  'in a line': [greeted, send('EHLO cli')],
  'with a reply that it does not read': [greeted, send('EHLO client.example\r\n')],
  'behind the 220 of STARTTLS': [greeted, askedForTls],
  'in the handshake': [greeted, askedForTls, send(HALF_A_HELLO)],
  'in a handshake that is none': [greeted, askedForTls, send('EHLO client.example\r\n')],
  'in TLS': [greeted, inTls],
  'in a message in TLS': [greeted, inTls, inMessage, send('Subject: half a mess')],
  'in a message in cleartext': [greeted, inMessage, send('Subject: half a mess')],
  'behind QUIT in cleartext': [greeted, send('QUIT\r\n')],
  'behind QUIT in TLS': [greeted, inTls, send('QUIT\r\n')],
};

/** Continues to a point of a session and leaves. @returns settles when the connection is closed on both sides. */
export async function connectAndLeave(
  port: number,
  steps: readonly Step[],
  way: (typeof WAYS)[number],
): Promise<void> {
  const client = await connectSmtp(port);
  for (const step of steps) await step(client);
  const socket: Socket = client.tcp();
  const closed = new Promise((resolve) => socket.once('close', resolve));
  if (way === 'half-closes') client.end();
  else if (way === 'closes') client.destroy();
  else if (way === 'resets') socket.resetAndDestroy();
  else await client.rest().catch(() => {});
  if (way === 'half-closes') await client.rest().catch(() => {});
  client.destroy();
  await closed;
}
