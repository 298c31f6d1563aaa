/** Drives an envelope with a transcript. */

import { addReceived } from '../../lib/smtp/add-received.ts';
import type { Decide, Decision } from '../../lib/smtp/decision.ts';
import { createEnvelope, type EnvelopeStep } from '../../lib/smtp/envelope.ts';
import type { Received } from '../../lib/smtp/received.ts';
import { formatReply } from '../../lib/smtp/reply-reader.ts';
import { type Cut, inputsOf } from './replay.ts';
import type { Entry, Transcript } from './transcript.ts';

/**
 * Replays a transcript of an envelope. The client is read while the envelope wants it. What happens to a command depends
 * on its first word:
 *
 *     ANSWER text    answered with "250 text"          REPLACE text   passed as "text"
 *     BDAT ours      answered with "503 no"            WAIT           passed when no reply is outstanding
 *     END            answered with "221 bye", the end  HOLD           passed after "-- resume"
 *     PRECEDE text   "text" is sent first, and the reply to it is the answer
 *     PREFIX text    answered with "250 ok"; "text" goes before the next message, whose BDAT counts it too
 *
 * Any other is passed. When AUTH is done, "250 AUTH" and the code are the answer to CODE.
 */
export function replayEnvelope(transcript: Transcript, cut: Cut = (packet) => [packet]): Entry[] {
  const seen: Entry[] = [];
  const waiting: Buffer[] = [];
  let clientEnds = false;
  let isResumed = false;
  let preceding: Buffer | undefined;
  let isOver = false;
  let tls: Received['tls'];
  let prefix: Buffer | undefined;
  let authCode: number | undefined;
  const has = (what: Entry['type']): boolean => transcript.entries.some(({ type }) => type === what);
  const decide: Decide = ({ verb, argument, kind }, _, isQuiet) => {
    if (verb === 'ANSWER') return { type: 'answer', reply: Buffer.from(`250 ${argument}\r\n`) };
    if (kind === 'chunk' && argument.endsWith('ours')) {
      return { type: 'answer', reply: Buffer.from('503 no\r\n') };
    }
    if (verb === 'END') return { type: 'answer', reply: Buffer.from('221 bye\r\n'), end: true };
    if (verb === 'CODE') return { type: 'answer', reply: Buffer.from(`250 AUTH ${authCode}\r\n`) };
    if (verb === 'PREFIX') {
      prefix = Buffer.from(`${argument}\r\n`);
      return { type: 'answer', reply: Buffer.from('250 ok\r\n') };
    }
    if (prefix !== undefined && (verb === 'DATA' || kind === 'chunk'))
      return passWithPrefix(prefix, argument);
    if (verb === 'AUTH') {
      return {
        type: 'pass',
        replied: (code) => {
          authCode = code;
        },
      };
    }
    if (verb === 'REPLACE') return { type: 'pass', line: argument };
    if (verb === 'WAIT' && !isQuiet) return { type: 'after-replies' };
    if (verb === 'HOLD' && !isResumed) return { type: 'hold' };
    isResumed = false;
    if (verb !== 'PRECEDE') return { type: 'pass', replied: () => {} };
    const reply = preceding;
    preceding = undefined;
    if (reply !== undefined) return { type: 'answer', reply };
    return {
      type: 'precede',
      line: argument,
      replied: (whole) => {
        preceding = formatReply(whole);
      },
    };
  };
  const received = addReceived(decide, {
    ...{ by: 'mx.example', clientAddress: '192.0.2.1', id: '17-4', now: () => 0 },
    tls: () => tls,
  });
  const envelope = createEnvelope({
    ...(has('lmtp') && { protocol: 'lmtp' }),
    awaitsGreeting: has('greeting'),
    strictNewlines: has('strict-newlines'),
    decide: has('received') ? received : decide,
  });

  function passWithPrefix(bytes: Buffer, argument: string): Decision {
    prefix = undefined;
    const [size = '', ...last] = argument.split(' ');
    if (size === '') return { type: 'pass', prefix: bytes };
    return { type: 'pass', line: ['BDAT', Number(size) + bytes.length, ...last].join(' '), prefix: bytes };
  }

  function settle(): void {
    for (;;) {
      const step = envelope.next();
      const piece = step === undefined && envelope.wantsClient() && !isOver ? waiting.shift() : undefined;
      if (step !== undefined) take(step);
      else if (piece !== undefined) {
        envelope.fromClient(piece);
        for (let next = envelope.next(); next !== undefined; next = envelope.next()) take(next);
        piece.fill('#');
      } else if (clientEnds && waiting.length === 0) {
        clientEnds = false;
        envelope.clientEnded();
      } else return;
    }
  }

  function take(step: EnvelopeStep): void {
    if (isOver) throw new Error(`a step after the end: ${step.type}`);
    isOver = step.type === 'end' || step.type === 'invalid-reply' || step.type === 'smtpd-closing';
    if (!('bytes' in step)) return void seen.push(step);
    const last = seen.at(-1);
    const before = last?.type === step.type && 'bytes' in last ? last.bytes : Buffer.alloc(0);
    if (before.length > 0) seen.pop();
    // A copy, because the packet is overwritten.
    seen.push({ type: step.type, bytes: Buffer.concat([before, step.bytes]) });
  }

  for (const [number, entry] of inputsOf(transcript).entries()) {
    seen.push(entry);
    if (entry.type === 'client-sends') {
      waiting.push(...cut(entry.bytes, number).map((piece) => Buffer.from(piece)));
    } else if (entry.type === 'smtpd-sends') {
      for (const piece of cut(entry.bytes, number)) {
        envelope.fromSmtpd(piece);
        settle();
      }
    } else if (entry.type === 'client-ends') clientEnds = true;
    else if (entry.type === 'tls') tls = { protocol: 'TLSv1.3', cipher: 'TLS_AES_256_GCM_SHA384' };
    else if (entry.type === 'resume') {
      isResumed = true;
      envelope.resume();
    }
    settle();
  }
  return seen;
}
