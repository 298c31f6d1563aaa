import type { Reporter } from '../program/reporter.ts';
import type { Dialogue, Step, Verdict } from '../smtp/dialogue.ts';
import { REPLIES } from '../smtp/reply.ts';
import type { ByteStream } from '../stream/byte-stream.ts';
import type { Child, ChildEnd } from '../stream/child.ts';
import { endAfterOutput, ORPHAN_SILENCE } from '../stream/end-child.ts';
import { type SilenceWatch, watchSilence } from '../stream/time.ts';
import { reportEnd } from './smtpd.ts';

/** What a dialogue is held between, and under which terms. */
export interface Conversation {
  readonly dialogue: Dialogue;
  readonly client: ByteStream;
  readonly smtpd: Child;
  /** How long nothing may happen, in milliseconds; a line that trickles in does not count as happening. */
  readonly silence: number;
  /** Settles when it is to end at once, with the verdict `close`. */
  readonly hurry: Promise<void>;
  readonly report: Reporter;
}

/**
 * How much is gathered to be said to a client at once, in octets, and a line. A reply of many lines should
 * come in one packet: there are clients that read no further.
 */
const PIECE = 16384;

/**
 * Drives a dialogue: carries bytes into it and its steps out, until the verdict.
 *
 * Steps wait while a side does not take what was written to it, and then nobody is read: that is what
 * bounds the memory. When the verdict is given both sources are paused, and nothing that was written is
 * left in this process.
 */
export function converse(conversation: Conversation): Promise<Verdict> {
  const { dialogue, client, smtpd, hurry, report } = conversation;
  const { promise, resolve } = withResolvers<Verdict>();
  let stalled = false;
  /** What is to be said to the client in one piece. */
  let words: Buffer[] = [];
  let octets = 0;
  /** A step that has to wait until that is said. */
  let held: Step | undefined;
  let verdict: Verdict | undefined;
  let smtpdEnd: ChildEnd | undefined;

  const silence = watchSilence(conversation.silence, () => {
    dialogue.timedOut();
    // Whoever did not listen until now will not hear the farewell either. It is not waited for.
    stalled = false;
    advance();
  });
  void hurry.then(() => {
    if (verdict === undefined && !stalled) client.sink.write(REPLIES.shuttingDown);
    decide('close');
  });
  let orphan: SilenceWatch | undefined;
  void smtpd.ended.then(watchOrphan);

  client.source.listen({
    bytes: (bytes) => {
      dialogue.fromClient(bytes);
      advance();
    },
    ended: clientGone,
  });
  client.sink.listen({ drained: resume, failed: clientGone });
  smtpd.source.listen({
    bytes: (bytes) => {
      orphan?.heard();
      dialogue.fromSmtpd(bytes);
      advance();
    },
    ended: smtpdGone,
  });
  // A failed write to smtpd needs no answer of its own: the end of its output follows.
  smtpd.sink.listen({ drained: resume, failed: resume });
  advance();
  return promise;

  function advance(): void {
    while (verdict === undefined && !stalled) {
      const step = held ?? dialogue.next();
      held = undefined;
      if (step !== undefined) silence.heard();
      if (step?.type === 'to-client' && octets < PIECE) {
        words.push(step.bytes);
        octets += step.bytes.length;
      } else if (words.length > 0) {
        held = step;
        stalled = !sayWords();
      } else if (step === undefined) break;
      else stalled = !carryOut(step);
    }
    // From the verdict on both sides are another's: what we still hear of them must not stop it.
    if (verdict !== undefined) return;
    if (stalled) return pauseBoth();
    smtpd.source.read();
    if (dialogue.wantsClient()) client.source.read();
    else client.source.pause();
  }

  /** Returns false when the next step has to wait. */
  function sayWords(): boolean {
    const piece = Buffer.concat(words);
    words = [];
    octets = 0;
    return client.sink.write(piece);
  }

  /** Returns false when the next step has to wait. */
  function carryOut(step: Step): boolean {
    switch (step.type) {
      case 'to-client':
        return client.sink.write(step.bytes);
      case 'to-smtpd':
        return smtpd.sink.write(step.bytes);
      case 'end-smtpd':
        smtpd.sink.end();
        return true;
      case 'notice':
        if (step.about === 'smtpd-end') reportEnd(report, step.text, smtpdEnd);
        else report.warning(step.text);
        return true;
      case 'verdict':
        decide(step.verdict);
        return true;
    }
  }

  function resume(): void {
    stalled = false;
    advance();
  }

  function clientGone(): void {
    dialogue.clientEnded();
    resume();
  }

  async function smtpdGone(): Promise<void> {
    smtpdEnd = await endAfterOutput(smtpd);
    dialogue.smtpdEnded();
    advance();
  }

  /** smtpd has ended. A process that it left behind may hold its output and say nothing. */
  function watchOrphan(): void {
    if (verdict !== undefined) return;
    orphan = watchSilence(ORPHAN_SILENCE, () => (stalled ? watchOrphan() : void smtpdGone()));
  }

  function decide(what: Verdict): void {
    if (verdict !== undefined) return;
    verdict = what;
    silence.stop();
    orphan?.stop();
    pauseBoth();
    resolve(what);
  }

  function pauseBoth(): void {
    client.source.pause();
    smtpd.source.pause();
  }
}

function withResolvers<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve: (value: T) => void = () => {};
  const promise = new Promise<T>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
