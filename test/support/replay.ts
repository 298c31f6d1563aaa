/** Drives a dialogue, a prelude or an opening with a transcript, as a real driver does. */

import { createDialogue } from '../../lib/smtp/dialogue.ts';
import { LINE_LIMIT } from '../../lib/smtp/line.ts';
import { createOpening, type OpeningOutcome } from '../../lib/smtp/opening.ts';
import { createPrelude, type Introduction } from '../../lib/smtp/prelude.ts';
import { formatReply, REPLY_LIMIT, type Reply } from '../../lib/smtp/reply-reader.ts';
import { type Entry, formatEntries, type Transcript } from './transcript.ts';

/** Cuts a packet in pieces that are read one by one. */
export type Cut = (packet: Buffer, number: number) => readonly Buffer[];

/** Drives one of them. See `replayDialogue`. */
export type Replay = (transcript: Transcript, cut?: Cut) => Entry[];

/** All that was seen, without the times at which it was. */
export interface Outcome {
  readonly toClient: string;
  readonly toSmtpd: string;
  /** Notices, the verdict and other steps. */
  readonly others: readonly string[];
  /** What was left of the client's bytes, read or not. */
  readonly leftFromClient: string;
  readonly leftFromSmtpd: string;
}

/**
 * Replays a transcript of a dialogue. What the client sends waits, as in a kernel, until the dialogue has nothing left
 * to do and wants to read it. The client's end waits there too.
 *
 * @param transcript of which the inputs count, not what is expected.
 * @param cut how packets are to be cut; without it all that waits is read at once.
 * @returns the inputs, and among them what came out.
 * @throws Error when the dialogue keeps more bytes than it may.
 */
export function replayDialogue(transcript: Transcript, cut?: Cut): Entry[] {
  const dialogue = createDialogue(transcript.options);
  const seen: Entry[] = [];
  let waiting: Buffer[] = [];
  const lateFromSmtpd: Buffer[] = [];
  let largest = 0;
  let clientEnds = false;
  let verdict = false;

  function settle(): void {
    for (;;) {
      const step = dialogue.next();
      if (step !== undefined) {
        if (verdict) throw new Error(`a step after the verdict: ${step.type}`);
        seen.push(step);
        verdict = step.type === 'verdict';
      } else if (verdict || !dialogue.wantsClient()) break;
      else if (waiting.length > 0) readClient();
      else if (clientEnds) {
        clientEnds = false;
        dialogue.clientEnded();
        if (dialogue.wantsClient()) throw new Error('the dialogue wants to read a client that ended');
      } else break;
    }
    const { client, smtpd } = dialogue.rest();
    const bound = LINE_LIMIT + largest;
    if (client.length > bound || smtpd.length > bound) throw new Error('the dialogue keeps too much');
  }

  function readClient(): void {
    const bytes = cut === undefined ? Buffer.concat(waiting) : (waiting[0] ?? Buffer.alloc(0));
    waiting = cut === undefined ? [] : waiting.slice(1);
    largest = Math.max(largest, bytes.length);
    dialogue.fromClient(bytes);
  }

  function readSmtpd(bytes: Buffer): void {
    if (verdict) {
      lateFromSmtpd.push(bytes);
      return;
    }
    largest = Math.max(largest, bytes.length);
    dialogue.fromSmtpd(bytes);
    settle();
  }

  for (const [number, entry] of inputsOf(transcript).entries()) {
    seen.push(entry);
    switch (entry.type) {
      case 'client-sends':
        waiting.push(...(cut === undefined ? [entry.bytes] : cut(entry.bytes, number)));
        break;
      case 'smtpd-sends':
        for (const piece of cut === undefined ? [entry.bytes] : cut(entry.bytes, number)) readSmtpd(piece);
        break;
      case 'client-ends':
        clientEnds = true;
        break;
      case 'smtpd-ends':
        dialogue.smtpdEnded();
        break;
      case 'timeout':
        dialogue.timedOut();
        break;
    }
    settle();
  }
  const { client, smtpd } = dialogue.rest();
  const left: Entry[] = [
    { type: 'left-client', bytes: client },
    { type: 'left-smtpd', bytes: Buffer.concat([smtpd, ...lateFromSmtpd]) },
    { type: 'unread', bytes: Buffer.concat(waiting) },
  ];
  return [...seen, ...left.filter((entry) => 'bytes' in entry && entry.bytes.length > 0)];
}

/** The introduction of a prelude whose transcript has none. */
const INTRODUCTION: Introduction = {
  greeting: { code: 220, texts: ['host ready'] },
  ehlo: { code: 250, texts: ['host', '8BITMIME'] },
  helo: { code: 250, texts: ['host'] },
};

/**
 * Replays a transcript of a prelude. All that the client sends is given to it at once.
 *
 * @throws Error when the hello of `smtpd-needed` is not the one of `introduced`, when a step follows that or the end,
 * or when bytes are given twice.
 */
export function replayPrelude(transcript: Transcript, cut: Cut = (packet) => [packet]): Entry[] {
  let hello = transcript.hellos[0];
  const seen: Entry[] = [];
  /** It has ended, or waits for a decision. */
  let waits = false;
  const prelude = createPrelude({
    introduction: introductionOf(transcript),
    hello,
    errorLimit: transcript.options.errorLimit,
    introduced: (line) => {
      hello = line;
    },
  });

  function settle(): void {
    for (let step = prelude.next(); step !== undefined; step = prelude.next()) {
      if (waits) throw new Error(`a step after smtpd-needed or the end: ${step.type}`);
      seen.push(step);
      waits = step.type === 'smtpd-needed' || step.type === 'end';
      if (step.type === 'smtpd-needed' && step.hello !== hello) throw new Error('it was not introduced');
    }
  }

  settle();
  for (const [number, entry] of inputsOf(transcript).entries()) {
    if (entry.type === 'smtpd-sends') continue;
    seen.push(entry);
    if (entry.type === 'client-sends') {
      for (const piece of cut(entry.bytes, number)) {
        push(prelude.fromClient, piece);
        settle();
      }
    } else if (entry.type === 'client-ends') prelude.clientEnded();
    else if (entry.type === 'timeout') prelude.timedOut();
    else if (entry.type === 'refuse') {
      waits = false;
      prelude.refuse(entry.bytes);
    } else if (entry.type === 'drop') prelude.drop();
    settle();
  }
  const left = prelude.takeRest();
  const isEmptied = prelude.takeRest().length === 0;
  if (!isEmptied) throw new Error('the rest was given twice');
  const introduction = transcript.entries.filter(({ type }) => type === 'smtpd-sends');
  const shown = [...introduction, ...seen];
  return left.length === 0 ? shown : [...shown, { type: 'left-client', bytes: left }];
}

function introductionOf({ entries }: Transcript): Introduction {
  const text = entries.map((entry) => (entry.type === 'smtpd-sends' ? entry.bytes.toString('latin1') : ''));
  const replies = text.join('').match(/(?:\d{3}-.*\r\n)*\d{3} .*\r\n/g) ?? [];
  const [greeting, ehlo, helo] = replies.map((reply): Reply => {
    const lines = reply.split('\r\n').slice(0, -1);
    return { code: Number(reply.slice(0, 3)), texts: lines.map((line) => line.slice(4)) };
  });
  return greeting === undefined || ehlo === undefined || helo === undefined
    ? INTRODUCTION
    : { greeting, ehlo, helo };
}

/**
 * Replays a transcript of an opening. What smtpd sends after the outcome is left.
 *
 * @throws Error when the opening keeps more bytes than it may, or goes on after the outcome.
 */
export function replayOpening(transcript: Transcript, cut: Cut = (packet) => [packet]): Entry[] {
  const opening = createOpening(transcript.hellos);
  const seen: Entry[] = [];
  const late: Buffer[] = [];
  let largest = 0;
  let outcome: OpeningOutcome | undefined;

  function settle(): void {
    for (let step = opening.next(); step !== undefined; step = opening.next()) {
      if (outcome !== undefined) throw new Error(`a step after the outcome: ${step.type}`);
      seen.push(step.type === 'outcome' ? entryOf(step.outcome) : step);
      if (step.type === 'outcome') outcome = step.outcome;
    }
  }

  function take(piece: Buffer): void {
    largest = Math.max(largest, piece.length);
    if (outcome === undefined) push(opening.fromSmtpd, piece);
    else late.push(piece);
    settle();
    if (opening.rest().length > REPLY_LIMIT + largest) throw new Error('the opening keeps too much');
  }

  for (const [number, entry] of inputsOf(transcript).entries()) {
    seen.push(entry);
    if (entry.type === 'smtpd-sends') for (const piece of cut(entry.bytes, number)) take(piece);
    else if (entry.type === 'smtpd-ends') opening.smtpdEnded();
    settle();
  }
  // Nothing is passed on from one that is broken.
  const left = outcome?.type === 'broken' ? Buffer.alloc(0) : Buffer.concat([opening.rest(), ...late]);
  return left.length === 0 ? seen : [...seen, { type: 'left-smtpd', bytes: left }];
}

function entryOf(outcome: OpeningOutcome): Entry {
  if (outcome.type === 'broken') return outcome;
  const replies = outcome.type === 'ready' ? [outcome.greeting, ...outcome.replies] : [outcome.reply];
  return { type: outcome.type, bytes: Buffer.concat(replies.map(formatReply)) };
}

/** Gives a piece in a buffer that is overwritten afterwards, as a driver does. */
export function push(take: (bytes: Uint8Array) => void, piece: Buffer): void {
  const bytes = Buffer.from(piece);
  take(bytes);
  bytes.fill('#');
}

const INPUTS: readonly string[] = [
  ...['client-sends', 'smtpd-sends', 'client-ends', 'smtpd-ends', 'timeout', 'refuse', 'drop', 'resume'],
  ...[
    'lmtp',
    'greeting',
    'strict-newlines',
    'received',
    'tls',
    'by-recipient',
    'one-destination',
    'connected',
  ],
];

/** What is put in, without what is expected to come out. */
export function inputsOf(transcript: Transcript): Entry[] {
  return transcript.entries.filter((entry) => INPUTS.includes(entry.type));
}

/** Sums up what came out. */
export function outcomeOf(entries: readonly Entry[]): Outcome {
  const others: string[] = [];
  const texts = new Map<string, string>();
  const add = (type: string, text: string) => texts.set(type, (texts.get(type) ?? '') + text);
  for (const entry of entries) {
    if (entry.type === 'ready' || entry.type === 'refused') others.push(formatEntries([entry]));
    else if ('bytes' in entry) add(entry.type, entry.bytes.toString('latin1'));
    else if (entry.type === 'end-smtpd') add('to-smtpd', '(end)');
    else if (!INPUTS.includes(entry.type)) others.push(formatEntries([entry]));
  }
  return {
    toClient: texts.get('to-client') ?? '',
    toSmtpd: texts.get('to-smtpd') ?? '',
    others,
    leftFromClient: (texts.get('left-client') ?? '') + (texts.get('unread') ?? ''),
    leftFromSmtpd: texts.get('left-smtpd') ?? '',
  };
}
