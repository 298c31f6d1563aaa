/**
 * One generated session through a routing: a client that keeps to the rules, and servers that check what they get. Each
 * message that the client was told to be accepted is at the server of its route, once and unchanged, and no other is.
 */

import type { Destination } from '../../lib/smtp/destination.ts';
import { createRouting, type RoutingStep } from '../../lib/smtp/routing.ts';
import { firstPiece, SIZES } from './pieces.ts';
import { createRandom, type Random } from './random.ts';
import { createRoutedServer, type Delivery, type RoutedServer } from './routed-server.ts';
import type { Play } from './run.ts';
import { check, checkSame } from './violation.ts';

const DOMAINS = ['a.example', 'a.example', 'b.example', 'b.example', 'one.example', 'none.example'] as const;
const LOCAL_PARTS = ['me', 'you', 'them', 'refused'] as const;
const TEXT = [
  'plain text\r\n',
  'RSET\r\n',
  'MAIL FROM:<me@b.example>\r\n',
  'QUIT\r\n',
  'DATA\r\n',
  '..\r\n',
  '\n.\n',
  '\r.\r',
  '\r\n..',
  'BDAT 5 LAST\r\n',
  'refused text\r\n',
  '\0\xff',
] as const;

function addressOf(random: Random): string {
  return `${random.pick(LOCAL_PARTS)}@${random.pick(DOMAINS)}`;
}

function textOf(random: Random, number: number): string {
  let text = `#${number}\r\n`;
  for (let count = random.below(6); count > 0; count--) text += random.pick(TEXT);
  return text;
}

/** Yields what the client sends in one group, and gets the codes of the replies to it. */
type Client = Generator<{ readonly text: string; readonly replies: number }, void, readonly number[]>;

/** A client that keeps to RFC 5321, 2920 and 3030. `accepted` gets the messages that were accepted. */
function* converse(random: Random, accepted: Omit<Delivery, 'key'>[]): Client {
  yield { text: '', replies: 1 };
  for (let left = random.below(6), number = 0; left > 0; left--, number++) {
    const idle = random.pick([
      '',
      '',
      'EHLO me\r\n',
      'NOOP\r\n',
      'RSET\r\n',
      'VRFY\r\nSAML FROM:<me@b.example>\r\n',
    ]);
    if (idle !== '') yield { text: idle, replies: idle.split('\r\n').length - 1 };
    yield* sendMail(random, number, accepted);
  }
  if (random.chance(50)) yield { text: 'QUIT\r\n', replies: 1 };
}

function* sendMail(random: Random, number: number, accepted: Omit<Delivery, 'key'>[]): Client {
  const sender = random.chance(10) ? '' : addressOf(random);
  const to = Array.from({ length: 1 + random.below(4) }, () => addressOf(random));
  const last = random.pick(['DATA', 'DATA', 'BDAT', 'RSET', 'EHLO me']);
  const commands = [`MAIL FROM:<${sender}>`, ...to.map((address) => `RCPT TO:<${address}>`)];
  if (last !== 'BDAT') commands.push(last);
  const codes: number[] = [];
  if (random.chance(60)) {
    codes.push(...(yield { text: `${commands.join('\r\n')}\r\n`, replies: commands.length }));
  } else {
    for (const command of commands) codes.push(...(yield { text: `${command}\r\n`, replies: 1 }));
  }
  const [mail = 0] = codes;
  const recipients = to.filter((_, index) => codes[index + 1] === 250);
  check(mail === 250 || recipients.length === 0, 'a recipient without MAIL');
  if (last === 'RSET' || last === 'EHLO me') return;
  const text = textOf(random, number);
  let isAccepted = false;
  let isRefused = mail === 250;
  if (last === 'BDAT') {
    const cut = random.below(text.length + 1);
    const chunks = random.chance(50) ? [text] : [text.slice(0, cut), text.slice(cut)];
    const lines = chunks.map(
      (chunk, index) => `BDAT ${chunk.length}${index === chunks.length - 1 ? ' LAST' : ''}\r\n${chunk}`,
    );
    const replies = yield { text: lines.join(''), replies: lines.length };
    isAccepted = replies.every((code) => code === 250);
    check(isAccepted || replies.at(-1) !== 250, 'a message without one of its chunks');
    if (isAccepted) accepted.push({ sender, recipients, text });
  } else if (codes.at(-1) === 354) {
    const lines = text.endsWith('\r\n') ? text : `${text}\r\n`;
    const whole = `${lines.replaceAll(/(?<=^|\r\n)\.\r\n/g, '..\r\n')}.\r\n`;
    const [code] = yield { text: whole, replies: 1 };
    isAccepted = code === 250;
    if (isAccepted) accepted.push({ sender, recipients, text: whole });
    isRefused = false;
  }
  // A new transaction may follow a message that was refused, or MAIL that was.
  if (!isAccepted && isRefused) yield { text: random.pick(['RSET\r\n', 'EHLO me\r\n']), replies: 1 };
}

/** Plays one session. */
export const playRouting: Play = (seed, number, record) => {
  const random = createRandom(seed, number);
  const size = random.pick(SIZES);
  const hasRecipients = random.chance(50);
  const find = (sender: string, recipient: string | undefined): Destination | undefined => {
    const key = (recipient ?? sender).split('@')[1] ?? 'a.example';
    return key === 'none.example' ? undefined : { key, takesOneRecipient: key === 'one.example' };
  };
  const routing = createRouting<Destination>({
    ...{ name: 'host', protocol: 'smtp', errorLimit: 1000 },
    to: { table: () => ({ hasRecipients, find }), offers: ['PIPELINING'] },
  });
  const accepted: Omit<Delivery, 'key'>[] = [];
  const delivered: Delivery[] = [];
  const client = converse(random, accepted);
  let sending = client.next();
  let [fromClient, toClient, fromServer] = ['', '', ''];
  let server: RoutedServer | undefined;
  let connecting: string | undefined;
  let isOver = false;

  function take(step: RoutingStep<Destination>): void {
    check(!isOver, `nothing follows the end, not ${step.type}`);
    switch (step.type) {
      case 'to-client':
        toClient += Buffer.from(step.bytes).toString('latin1');
        return record?.({ type: step.type, bytes: Buffer.from(step.bytes) });
      case 'to-smtpd':
        record?.({ type: step.type, bytes: Buffer.from(step.bytes) });
        check(server !== undefined, 'there is a server');
        fromServer += server?.take(Buffer.from(step.bytes).toString('latin1'), fromServer !== '') ?? '';
        return;
      case 'disconnect':
        record?.(step);
        check(server?.isIdle() === true && fromServer === '', 'a server is left when it has nothing to do');
        server = undefined;
        return;
      case 'connect':
        record?.({ type: step.type, key: step.destination.key, hello: step.hello });
        check(server === undefined && connecting === undefined, 'there is one server at a time');
        connecting = step.destination.key;
        return;
      case 'end':
        isOver = true;
        return;
      default:
        check(step.type === 'end-smtpd', `there is no ${step.type}`);
    }
  }

  function settle(): void {
    for (let step = routing.next(); step !== undefined; step = routing.next()) take(step);
    for (;;) {
      if (sending.done === true || fromClient !== '') return;
      const codes = [...toClient.matchAll(/^(\d{3}) .*\r\n/gm)].map(([, code]) => Number(code));
      check(
        codes.length <= sending.value.replies,
        `no more than ${sending.value.replies} replies: ${toClient}`,
      );
      if (codes.length < sending.value.replies || !toClient.endsWith('\r\n')) return;
      toClient = '';
      sending = client.next(codes);
      if (sending.done !== true) fromClient = sending.value.text;
    }
  }

  function connect(key: string): void {
    connecting = undefined;
    if (random.chance(20)) {
      const bytes = Buffer.from('451 4.4.1 no\r\n');
      record?.({ type: 'refuse', bytes });
      return routing.refuse(bytes);
    }
    const offer = random.chance(50) ? 'PIPELINING' : 'SIZE';
    record?.({ type: 'connected', offer });
    server = createRoutedServer(key, offer === 'PIPELINING', random, delivered);
    routing.connected({ code: 250, texts: ['far', offer] });
  }

  settle();
  while (!isOver && (fromClient !== '' || fromServer !== '' || connecting !== undefined)) {
    const isClient = routing.wantsClient() && fromClient !== '';
    if (isClient && (random.chance(60) || (fromServer === '' && connecting === undefined))) {
      const piece = firstPiece(fromClient, size, random);
      const bytes = Buffer.from(piece, 'latin1');
      record?.({ type: 'client-sends', bytes });
      fromClient = fromClient.slice(piece.length);
      routing.fromClient(bytes);
      settle();
      bytes.fill(0x58);
    } else if (fromServer !== '') {
      const piece = firstPiece(fromServer, size, random);
      const bytes = Buffer.from(piece, 'latin1');
      record?.({ type: 'smtpd-sends', bytes });
      fromServer = fromServer.slice(piece.length);
      routing.fromSmtpd(bytes);
    } else {
      check(connecting !== undefined, 'each side waits for the other');
      connect(connecting ?? '');
    }
    settle();
  }
  check(sending.done === true, `the client waits for a reply after ${JSON.stringify(toClient)}`);
  const wanted = accepted.map(({ sender, recipients, text }) => {
    const key = find(sender, hasRecipients ? recipients[0] : undefined)?.key ?? 'none';
    return { key, sender, recipients, text };
  });
  checkSame(JSON.stringify(delivered), JSON.stringify(wanted), 'the servers: ');
};
