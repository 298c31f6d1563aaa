/**
 * Drives a dialogue with a transcript as a real driver does: what the client sends waits, as in a kernel, until
 * the dialogue has nothing left to do and wants to read it. The client's end waits there too.
 */

import { createDialogue } from '../../lib/smtp/dialogue.ts';
import { LINE_LIMIT } from '../../lib/smtp/line.ts';
import type { Entry, Transcript } from './transcript.ts';

/** Cuts a packet in pieces that are read one by one. */
export type Cut = (packet: Buffer, number: number) => readonly Buffer[];

/** All that was seen in a dialogue, without the times at which it was. */
export interface Outcome {
  readonly toClient: string;
  readonly toSmtpd: string;
  /** Notices and the verdict. */
  readonly others: readonly string[];
  /** What the dialogue left of the client's bytes, read or not. */
  readonly leftFromClient: string;
  readonly leftFromSmtpd: string;
}

/**
 * Replays a transcript.
 *
 * @param transcript of which the inputs count, not what is expected.
 * @param cut how packets are to be cut; without it all that waits is read at once.
 * @returns the inputs, and among them what came out.
 * @throws Error when the dialogue keeps more bytes than it may.
 */
export function replay(transcript: Transcript, cut?: Cut): Entry[] {
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

/** What is put in, without what is expected to come out. */
export function inputsOf(transcript: Transcript): Entry[] {
  const inputs = ['client-sends', 'smtpd-sends', 'client-ends', 'smtpd-ends', 'timeout'];
  return transcript.entries.filter((entry) => inputs.includes(entry.type));
}

/** Sums up what came out of a dialogue. */
export function outcomeOf(entries: readonly Entry[]): Outcome {
  const others: string[] = [];
  const texts = new Map<string, string>();
  const add = (type: string, text: string) => texts.set(type, (texts.get(type) ?? '') + text);
  for (const entry of entries) {
    if ('bytes' in entry) add(entry.type, entry.bytes.toString('latin1'));
    else if (entry.type === 'end-smtpd') add('to-smtpd', '(end)');
    else if (entry.type === 'notice') others.push(`! ${entry.text}`);
    else if (entry.type === 'verdict') others.push(`= ${entry.verdict}`);
  }
  return {
    toClient: texts.get('to-client') ?? '',
    toSmtpd: texts.get('to-smtpd') ?? '',
    others,
    leftFromClient: (texts.get('left-client') ?? '') + (texts.get('unread') ?? ''),
    leftFromSmtpd: texts.get('left-smtpd') ?? '',
  };
}
