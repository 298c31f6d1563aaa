/** Drives a routing with a transcript. */

import type { Destination } from '../../lib/smtp/destination.ts';
import { REPLIES } from '../../lib/smtp/reply.ts';
import { createRouting, type RoutingStep } from '../../lib/smtp/routing.ts';
import { type Cut, inputsOf } from './replay.ts';
import type { Entry, Transcript } from './transcript.ts';

/**
 * Replays a transcript of a routing. The client is read while the routing wants it. An address leads to the destination
 * that has the name of its domain, and none.example nowhere; lmtp.example takes one recipient.
 */
export function replayRouting(transcript: Transcript, cut: Cut = (packet) => [packet]): Entry[] {
  const seen: Entry[] = [];
  const waiting: Buffer[] = [];
  let clientEnds = false;
  let isOver = false;
  const has = (what: Entry['type']): boolean => transcript.entries.some(({ type }) => type === what);
  const hasRecipients = has('by-recipient');
  const routing = createRouting<Destination>({
    name: 'host',
    protocol: has('lmtp') ? 'lmtp' : 'smtp',
    errorLimit: transcript.options.errorLimit,
    to: has('one-destination')
      ? { only: { key: 'only.example', takesOneRecipient: false } }
      : { table: () => ({ hasRecipients, find }), offers: ['PIPELINING'] },
  });

  function find(sender: string, recipient: string | undefined): Destination | undefined {
    if (hasRecipients !== (recipient !== undefined)) throw new Error('an address too few, or too many');
    const key = (recipient ?? sender).split('@')[1] ?? 'null.example';
    return key === 'none.example' ? undefined : { key, takesOneRecipient: key === 'lmtp.example' };
  }

  function settle(): void {
    for (;;) {
      const step = routing.next();
      const piece = step === undefined && routing.wantsClient() && !isOver ? waiting.shift() : undefined;
      if (step !== undefined) take(step);
      else if (piece !== undefined) {
        routing.fromClient(piece);
        for (let next = routing.next(); next !== undefined; next = routing.next()) take(next);
        piece.fill('#');
      } else if (clientEnds && waiting.length === 0) {
        clientEnds = false;
        routing.clientEnded();
      } else return;
    }
  }

  function take(step: RoutingStep<Destination>): void {
    if (isOver) throw new Error(`a step after the end: ${step.type}`);
    isOver = step.type === 'end';
    if (step.type === 'connect') {
      seen.push({ type: 'connect', key: step.destination.key, hello: step.hello });
    } else if (!('bytes' in step)) seen.push(step);
    else {
      const last = seen.at(-1);
      const before = last?.type === step.type && 'bytes' in last ? last.bytes : Buffer.alloc(0);
      if (before.length > 0) seen.pop();
      // A copy, because the packet is overwritten.
      seen.push({ type: step.type, bytes: Buffer.concat([before, step.bytes]) });
    }
  }

  for (const type of SETTINGS) if (has(type)) seen.push({ type });
  settle();
  for (const [number, entry] of inputsOf(transcript).entries()) {
    if (SETTINGS.some((type) => type === entry.type)) continue;
    seen.push(entry);
    switch (entry.type) {
      case 'client-sends':
        waiting.push(...cut(entry.bytes, number).map((piece) => Buffer.from(piece)));
        break;
      case 'smtpd-sends':
        for (const piece of cut(entry.bytes, number)) {
          routing.fromSmtpd(piece);
          settle();
        }
        break;
      case 'connected':
        routing.connected({ code: 250, texts: ['far.example', ...entry.offer.split(', ')] });
        break;
      case 'refuse':
        routing.refuse(entry.bytes);
        break;
      case 'smtpd-ends':
        routing.smtpdEnded(REPLIES.smtpdFailed);
        break;
      case 'timeout':
        routing.timedOut();
        break;
      case 'client-ends':
        clientEnds = true;
    }
    settle();
  }
  return seen;
}

const SETTINGS = ['by-recipient', 'one-destination', 'lmtp'] as const;
