import { deferred } from '../program/deferred.ts';
import type { Reporter } from '../program/reporter.ts';
import type { Dialogue, Step, Verdict } from '../smtp/dialogue.ts';
import { reportEnd } from '../smtpd/program.ts';
import type { ByteStream } from '../stream/byte-stream.ts';
import type { Child, ChildEnd } from '../stream/child.ts';
import { endAfterOutput, ORPHAN_IDLE_TIMEOUT } from '../stream/end-child.ts';
import { type IdleWatch, watchIdle } from '../stream/time.ts';

/** What a dialogue is held between, and under which terms. */
export interface ConverseOptions {
  readonly dialogue: Dialogue;
  readonly client: ByteStream;
  readonly smtpd: Child;
  /** How long nothing may happen, in milliseconds; a line that trickles in does not count as happening. */
  readonly idleTimeout: number;
  /** Settles when smtpd was told to end, and may take its leave. */
  readonly stopping: Promise<void>;
  /** Settles when it is to end at once: the client hears 421, and the verdict is `close`. */
  readonly abort: Promise<void>;
  /** Called when the client has reached the error limit; without it that is a warning. */
  readonly errorLimitReached?: (() => void) | undefined;
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
export function converse(conversation: ConverseOptions): Promise<Verdict> {
  const { dialogue, client, smtpd, report } = conversation;
  const { promise, resolve } = deferred<Verdict>();
  let clientStalled = false;
  let smtpdStalled = false;
  let isConcluding = false;
  /** What is to be said to the client in one piece. */
  let words: Buffer[] = [];
  let octets = 0;
  /** A step that has to wait until that is said. */
  let held: Step | undefined;
  let verdict: Verdict | undefined;
  let smtpdEnd: ChildEnd | undefined;

  const idleTimeout = watchIdle(conversation.idleTimeout, () => {
    dialogue.timedOut();
    conclude();
  });
  void conversation.stopping.then(() => dialogue.terminated());
  void conversation.abort.then(() => {
    dialogue.timedOut();
    conclude();
  });
  let orphan: IdleWatch | undefined;
  void smtpd.ended.then(watchOrphan);

  client.source.listen({
    bytes: (bytes) => {
      dialogue.fromClient(bytes);
      advance();
    },
    ended: clientGone,
  });
  client.sink.listen({ drained: clientTakes, failed: clientGone });
  smtpd.source.listen({
    bytes: (bytes) => {
      orphan?.active();
      dialogue.fromSmtpd(bytes);
      advance();
    },
    ended: smtpdGone,
  });
  // A failed write to smtpd needs no answer of its own: the end of its output follows.
  smtpd.sink.listen({ drained: smtpdTakes, failed: smtpdTakes });
  advance();
  return promise;

  function advance(): void {
    while (verdict === undefined && (isConcluding || (!clientStalled && !smtpdStalled))) {
      const step = held ?? dialogue.next();
      held = undefined;
      if (step !== undefined) idleTimeout.active();
      if (step?.type === 'to-client') {
        words.push(step.bytes);
        octets += step.bytes.length;
        if (octets >= PIECE) clientStalled = !sayWords();
      } else if (words.length > 0) {
        held = step;
        clientStalled = !sayWords();
      } else if (step === undefined) break;
      else carryOut(step);
    }
    // From the verdict on both sides are another's: what we still hear of them must not stop it.
    if (verdict !== undefined) return;
    if (clientStalled || smtpdStalled) return pauseBoth();
    smtpd.source.read();
    if (dialogue.wantsClient()) client.source.read();
    else client.source.pause();
  }

  /** Returns false when the client does not take them all. */
  function sayWords(): boolean {
    const piece = Buffer.concat(words);
    words = [];
    octets = 0;
    return client.sink.write(piece);
  }

  function carryOut(step: Exclude<Step, { type: 'to-client' }>): void {
    if (step.type === 'to-smtpd') smtpdStalled = !smtpd.sink.write(step.bytes);
    else if (step.type === 'end-smtpd') smtpd.sink.end();
    else if (step.type === 'verdict') decide(step.verdict);
    else if (step.about === 'smtpd-end') reportEnd(report, step.text, smtpdEnd);
    else if (step.about === 'error-limit' && conversation.errorLimitReached !== undefined) {
      conversation.errorLimitReached();
    } else report.warning(step.text);
  }

  /** Comes to the verdict. Whoever did not listen until now will not hear the closingReply: it is not waited for. */
  function conclude(): void {
    isConcluding = true;
    advance();
  }

  function clientTakes(): void {
    clientStalled = false;
    advance();
  }

  function smtpdTakes(): void {
    smtpdStalled = false;
    advance();
  }

  function clientGone(): void {
    dialogue.clientEnded();
    clientTakes();
  }

  async function smtpdGone(): Promise<void> {
    smtpdEnd = await endAfterOutput(smtpd);
    dialogue.smtpdEnded();
    advance();
  }

  /** smtpd has ended. A process that it left behind may hold its output and say nothing. */
  function watchOrphan(): void {
    if (verdict !== undefined) return;
    orphan = watchIdle(ORPHAN_IDLE_TIMEOUT, () => (clientStalled ? watchOrphan() : void smtpdGone()));
  }

  function decide(what: Verdict): void {
    if (verdict !== undefined) return;
    verdict = what;
    idleTimeout.stop();
    orphan?.stop();
    pauseBoth();
    resolve(what);
  }

  function pauseBoth(): void {
    client.source.pause();
    smtpd.source.pause();
  }
}
