/**
 * One generated connection, like those of connection.ts, but with a real server between a client and an smtpd over
 * TCP. The model gives what each of them should receive next; the next event happens when they have received it. So
 * nothing depends on timing, although everything is real.
 */

import type { Socket } from 'node:net';
import { connect as connectTls, createSecureContext } from 'node:tls';
import type { DialogueOptions } from '../../lib/smtp/dialogue.ts';
import { LINE_LIMIT } from '../../lib/smtp/line.ts';
import { createModel } from '../support/model.ts';
import { clientInput, invalidReply, replyTo, unsolicitedReply } from './input.ts';
import { createRandom } from './random.ts';
import { collectFrom, type Side } from './tcp-side.ts';

/** The most octets that are sent at once: the system delivers them in one piece. */
const LARGEST_PACKET = 16_384;

const SIZES = ['all', 'all', 'line', 'few', 'any'] as const;

const CONTEXT = createSecureContext();

/**
 * Plays one connection to its end.
 *
 * @param seed and
 * @param number name the connection: what is sent in it is the same whenever they are.
 * @param options of the server.
 * @param clientSocket and
 * @param smtpdSocket its two ends, from which nothing was read.
 * @throws Error with what was expected and what was received.
 */
export async function playOverTcp(
  seed: number,
  number: number,
  options: DialogueOptions,
  clientSocket: Socket,
  smtpdSocket: Socket,
): Promise<void> {
  const random = createRandom(seed, number);
  const input = clientInput(random);
  const model = createModel(input.text, options);
  const client = collectFrom(clientSocket);
  const smtpd = collectFrom(smtpdSocket);
  const sizes = { client: random.pick(SIZES), smtpd: random.pick(SIZES) };
  const faultRate = random.chance(60) ? 0 : 8;
  let toClient = '';
  let toSmtpd = '';
  let replies = 1;
  let unsent = replyTo('GREETING', 0, random);
  let readTo = 0;
  let endsSoon = false;
  let smtpdHasEnded = false;
  let verdict = '';

  while (verdict === '') {
    act();
    await settle();
  }
  if (verdict === 'close') await expectClose();
  else if (verdict === 'plaintext') await relay();
  else if (random.chance(30)) await breakHandshake();
  else await relayInTls();

  function act(): void {
    const wantsClient = model.wantsClient();
    const hasMore = readTo < input.text.length;
    if (faultRate > 0 && random.chance(1) && mayEnd()) endSmtpd();
    else if (unsent !== '' && !(wantsClient && hasMore && random.chance(30))) smtpdSends();
    else if (endsSoon) endSmtpd();
    else if (wantsClient && hasMore) clientSends();
    else if (wantsClient) {
      model.clientEnded();
      client.stream.end();
    } else endSmtpd();
  }

  function clientSends(): void {
    const text = piece(input.text.slice(readTo), sizes.client);
    readTo += text.length;
    model.read(text.length);
    client.stream.write(text, 'latin1');
  }

  function smtpdSends(): void {
    const text = piece(unsent, sizes.smtpd);
    unsent = unsent.slice(text.length);
    model.smtpdSent(text);
    smtpd.stream.write(text, 'latin1');
  }

  function piece(text: string, size: (typeof SIZES)[number]): string {
    const chosen = size === 'any' ? random.pick(SIZES) : size;
    if (chosen === 'line') return text.slice(0, text.indexOf('\n') + 1 || undefined).slice(0, LARGEST_PACKET);
    if (chosen === 'few') return text.slice(0, 1 + random.below(text.length > 3000 ? 3000 : 8));
    if (chosen === 'any') return text.slice(0, 1 + random.below(Math.min(text.length, LARGEST_PACKET)));
    return text.slice(0, LARGEST_PACKET);
  }

  /** The result is undefined if smtpd ends with output that is over the limit or ends with CR. */
  function mayEnd(): boolean {
    const left = model.rest().smtpd;
    return left.length < LINE_LIMIT && !left.endsWith('\r');
  }

  function endSmtpd(): void {
    unsent = '';
    smtpdHasEnded = true;
    model.smtpdEnded();
    smtpd.stream.end();
  }

  /** Waits until both have received what the model gives. */
  async function settle(): Promise<void> {
    let smtpdInputEnds = false;
    for (const event of eventsOf(model.settle())) {
      if (event.startsWith('=')) verdict = event.slice(1);
      else if (event === '>(end)') smtpdInputEnds = true;
      else if (event.startsWith('>')) {
        toSmtpd += event.slice(1);
        respond(event.slice(1).trim());
      } else if (event !== '!') toClient += event.replace(/^S/, '');
    }
    if (verdict === 'plaintext') {
      // The relay begins at once, with what the dialogue has not consumed.
      toClient += model.rest().smtpd;
      toSmtpd += model.rest().client;
    }
    await Promise.all([
      assertReceives('the client', client, toClient),
      assertReceives('smtpd', smtpd, toSmtpd),
    ]);
    if (smtpdInputEnds) await smtpd.ends();
  }

  /** Chooses smtpd's response to a command. */
  function respond(line: string): void {
    const isFaulty = random.chance(faultRate);
    const fault = random.below(4);
    const next = (): number => replies++;
    if (isFaulty && fault === 0) unsent += invalidReply(next(), random);
    if (isFaulty && fault === 1) unsent += unsolicitedReply(next(), random);
    if (isFaulty && fault === 2) endsSoon = true;
    if (!endsSoon || random.chance(50)) unsent += replyTo(line, next(), random);
    if (isFaulty && fault === 3) unsent += unsolicitedReply(next(), random);
    if (line === 'QUIT') endsSoon = true;
  }

  /** The server sends no more to either side, and ends both. */
  async function expectClose(): Promise<void> {
    await client.ends();
    client.stream.end();
    await smtpd.ends();
    smtpd.stream.end();
    assertReceived('the client', client, toClient);
    assertReceived('smtpd', smtpd, toSmtpd);
  }

  /** Everything is relayed unchanged. */
  async function relay(): Promise<void> {
    const left = `${input.text.slice(readTo)}\0\xff the last of the client`;
    toSmtpd += left;
    client.stream.end(left, 'latin1');
    await assertReceives('smtpd', smtpd, toSmtpd);
    await smtpd.ends();
    assertReceived('smtpd', smtpd, toSmtpd);
    await sendLast(client, toClient);
  }

  async function sendLast(side: Side, before: string): Promise<void> {
    const last = `${unsent}\0\xff the last of smtpd\r\n`;
    smtpd.stream.end(last, 'latin1');
    await side.ends();
    assertReceived('the client', side, before + last);
    side.stream.end();
  }

  /** Cleartext after the 220 reaches only the TLS engine, which rejects it. */
  async function breakHandshake(): Promise<void> {
    client.stream.write(`${input.text.slice(readTo)}MAIL FROM:<injected>\r\nQUIT\r\n`, 'latin1');
    await client.ends();
    client.stream.end();
    await smtpd.ends();
    smtpd.stream.end();
    assertReceived('smtpd', smtpd, toSmtpd);
  }

  async function relayInTls(): Promise<void> {
    client.stop();
    const socket = connectTls({ socket: clientSocket, secureContext: CONTEXT, rejectUnauthorized: false });
    const side = collectFrom(socket);
    if (smtpdHasEnded) return expectFailure(side);
    const word = `NOOP #in-tls ${number}\r\n`;
    socket.write(word);
    toSmtpd += word;
    await assertReceives('smtpd', smtpd, toSmtpd);
    await sendLast(side, model.rest().smtpd);
    await smtpd.ends();
    assertReceived('smtpd', smtpd, toSmtpd);
  }
}

/** If smtpd has ended within its reply to RSET, the client receives a 421 in TLS. */
async function expectFailure(side: Side): Promise<void> {
  await side.ends();
  side.stream.end();
  if (!/^421 4\.3\.0 [^\n]*\r\n$/.test(side.received())) {
    throw new Error(`smtpd has ended, and the client has received ${JSON.stringify(side.received())}`);
  }
}

async function assertReceives(name: string, side: Side, expected: string): Promise<void> {
  await side.receives(expected.length);
  assertReceived(name, side, expected);
}

function assertReceived(name: string, side: Side, expected: string): void {
  const received = side.received();
  if (received === expected) return;
  let at = 0;
  while (received[at] === expected[at]) at += 1;
  const from = Math.max(at - 40, 0);
  const [is, ought] = [received, expected].map((text) => JSON.stringify(text.slice(from, at + 200)));
  throw new Error(`from octet ${from} on ${name} has received ${is} instead of ${ought}`);
}

/** Takes apart what the model gives: see `Model.settle`. A reply of ours may have several lines. */
function eventsOf(text: string): string[] {
  return text.match(/S?\d[^\n]*\n|>\(end\)|>[^\n]*\n|!|=(?:tls|plaintext|close)/g) ?? [];
}
