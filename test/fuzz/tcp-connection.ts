/**
 * One made-up connection, like those of connection.ts, but with a real server between a client and an smtpd
 * that are at the two ends of TCP. The model says at each moment what either of them is to hear next; the
 * next thing happens when they have. So nothing depends on what is faster, and still all is real.
 */

import type { Socket } from 'node:net';
import { connect as connectTls, createSecureContext } from 'node:tls';
import type { DialogueOptions } from '../../lib/smtp/dialogue.ts';
import { LINE_LIMIT } from '../../lib/smtp/line.ts';
import { createModel } from '../support/model.ts';
import { clientSpeech, noReply, replyTo, unaskedReply } from './input.ts';
import { createRandom } from './random.ts';
import { listenTo, type Side } from './tcp-side.ts';

/** The most octets that are sent at once: the system hands them over in one piece. */
const LARGEST_PACKET = 16_384;

const SIZES = ['all', 'all', 'line', 'few', 'any'] as const;

const CONTEXT = createSecureContext();

/**
 * Plays one connection to its end.
 *
 * @param seed and
 * @param number name the connection: what is said in it is the same whenever they are.
 * @param options of the server.
 * @param clientSocket and
 * @param smtpdSocket its two ends, from which nothing was read.
 * @throws Error that says what was expected and what came.
 */
export async function playOverTcp(
  seed: number,
  number: number,
  options: DialogueOptions,
  clientSocket: Socket,
  smtpdSocket: Socket,
): Promise<void> {
  const random = createRandom(seed, number);
  const speech = clientSpeech(random);
  const model = createModel(speech.text, options);
  const client = listenTo(clientSocket);
  const smtpd = listenTo(smtpdSocket);
  const sizes = { client: random.pick(SIZES), smtpd: random.pick(SIZES) };
  const madness = random.chance(60) ? 0 : 8;
  let toClient = '';
  let toSmtpd = '';
  let replies = 1;
  let saying = replyTo('GREETING', 0, random);
  let readTo = 0;
  let endsSoon = false;
  let smtpdIsGone = false;
  let verdict = '';

  while (verdict === '') {
    letSomethingHappen();
    await settle();
  }
  if (verdict === 'close') await hearFarewell();
  else if (verdict === 'plaintext') await relay();
  else if (random.chance(30)) await spoilHandshake();
  else await relayInTls();

  function letSomethingHappen(): void {
    const listens = model.listens();
    const hasMore = readTo < speech.text.length;
    if (madness > 0 && random.chance(1) && mayEnd()) endSmtpd();
    else if (saying !== '' && !(listens && hasMore && random.chance(30))) smtpdSays();
    else if (endsSoon) endSmtpd();
    else if (listens && hasMore) clientSays();
    else if (listens) {
      model.clientEnded();
      client.stream.end();
    } else endSmtpd();
  }

  function clientSays(): void {
    const text = piece(speech.text.slice(readTo), sizes.client);
    readTo += text.length;
    model.read(text.length);
    client.stream.write(text, 'latin1');
  }

  function smtpdSays(): void {
    const text = piece(saying, sizes.smtpd);
    saying = saying.slice(text.length);
    model.said(text);
    smtpd.stream.write(text, 'latin1');
  }

  function piece(text: string, size: (typeof SIZES)[number]): string {
    const chosen = size === 'any' ? random.pick(SIZES) : size;
    if (chosen === 'line') return text.slice(0, text.indexOf('\n') + 1 || undefined).slice(0, LARGEST_PACKET);
    if (chosen === 'few') return text.slice(0, 1 + random.below(text.length > 3000 ? 3000 : 8));
    if (chosen === 'any') return text.slice(0, 1 + random.below(Math.min(text.length, LARGEST_PACKET)));
    return text.slice(0, LARGEST_PACKET);
  }

  /** What is right about last words that are over the limit or end with CR is a matter of taste. */
  function mayEnd(): boolean {
    const left = model.rest().smtpd;
    return left.length < LINE_LIMIT && !left.endsWith('\r');
  }

  function endSmtpd(): void {
    saying = '';
    smtpdIsGone = true;
    model.smtpdEnded();
    smtpd.stream.end();
  }

  /** Waits until both have heard what the model has them hear. */
  async function settle(): Promise<void> {
    let hearsEnd = false;
    for (const event of eventsOf(model.settle())) {
      if (event.startsWith('=')) verdict = event.slice(1);
      else if (event === '>(end)') hearsEnd = true;
      else if (event.startsWith('>')) {
        toSmtpd += event.slice(1);
        obey(event.slice(1).trim());
      } else if (event !== '!') toClient += event.replace(/^S/, '');
    }
    if (verdict === 'plaintext') {
      // The relay begins at once, with what the dialogue has not consumed.
      toClient += model.rest().smtpd;
      toSmtpd += model.rest().client;
    }
    await Promise.all([assertHears('the client', client, toClient), assertHears('smtpd', smtpd, toSmtpd)]);
    if (hearsEnd) await smtpd.ends();
  }

  /** smtpd makes up its mind about a command. */
  function obey(line: string): void {
    const isMad = random.chance(madness);
    const whim = random.below(4);
    const next = (): number => replies++;
    if (isMad && whim === 0) saying += noReply(next(), random);
    if (isMad && whim === 1) saying += unaskedReply(next(), random);
    if (isMad && whim === 2) endsSoon = true;
    if (!endsSoon || random.chance(50)) saying += replyTo(line, next(), random);
    if (isMad && whim === 3) saying += unaskedReply(next(), random);
    if (line === 'QUIT') endsSoon = true;
  }

  /** The server says no more than it has said, to either side, and ends both. */
  async function hearFarewell(): Promise<void> {
    await client.ends();
    client.stream.end();
    await smtpd.ends();
    smtpd.stream.end();
    assertHeard('the client', client, toClient);
    assertHeard('smtpd', smtpd, toSmtpd);
  }

  /** All passes as it is. */
  async function relay(): Promise<void> {
    const left = `${speech.text.slice(readTo)}\0\xff the last of the client`;
    toSmtpd += left;
    client.stream.end(left, 'latin1');
    await assertHears('smtpd', smtpd, toSmtpd);
    await smtpd.ends();
    assertHeard('smtpd', smtpd, toSmtpd);
    await sayLastWords(client, toClient);
  }

  async function sayLastWords(side: Side, before: string): Promise<void> {
    const last = `${saying}\0\xff the last of smtpd\r\n`;
    smtpd.stream.end(last, 'latin1');
    await side.ends();
    assertHeard('the client', side, before + last);
    side.stream.end();
  }

  /** What comes in cleartext behind the 220 is for nobody but the TLS engine, which can make nothing of it. */
  async function spoilHandshake(): Promise<void> {
    client.stream.write(`${speech.text.slice(readTo)}MAIL FROM:<injected>\r\nQUIT\r\n`, 'latin1');
    await client.ends();
    client.stream.end();
    await smtpd.ends();
    smtpd.stream.end();
    assertHeard('smtpd', smtpd, toSmtpd);
  }

  async function relayInTls(): Promise<void> {
    client.leave();
    const socket = connectTls({ socket: clientSocket, secureContext: CONTEXT, rejectUnauthorized: false });
    const side = listenTo(socket);
    if (smtpdIsGone) return hearOfDeath(side);
    const word = `NOOP #in-tls ${number}\r\n`;
    socket.write(word);
    toSmtpd += word;
    await assertHears('smtpd', smtpd, toSmtpd);
    await sayLastWords(side, model.rest().smtpd);
    await smtpd.ends();
    assertHeard('smtpd', smtpd, toSmtpd);
  }
}

/** Where smtpd has ended in the midst of its reply to RSET, the client learns of it in TLS. */
async function hearOfDeath(side: Side): Promise<void> {
  await side.ends();
  side.stream.end();
  if (!/^421 4\.3\.0 [^\n]*\r\n$/.test(side.heard())) {
    throw new Error(`smtpd has ended, and the client has heard ${JSON.stringify(side.heard())}`);
  }
}

async function assertHears(who: string, side: Side, expected: string): Promise<void> {
  await side.hears(expected.length);
  assertHeard(who, side, expected);
}

function assertHeard(who: string, side: Side, expected: string): void {
  const heard = side.heard();
  if (heard === expected) return;
  let at = 0;
  while (heard[at] === expected[at]) at += 1;
  const from = Math.max(at - 40, 0);
  const [is, ought] = [heard, expected].map((text) => JSON.stringify(text.slice(from, at + 200)));
  throw new Error(`from octet ${from} on ${who} has heard ${is}, and ought to have heard ${ought}`);
}

/** Takes apart what the model gives: see `Model.settle`. A reply of ours may have several lines. */
function eventsOf(text: string): string[] {
  return text.match(/S?\d[^\n]*\n|>\(end\)|>[^\n]*\n|!|=(?:tls|plaintext|close)/g) ?? [];
}
