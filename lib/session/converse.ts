import { deferred, upon } from '../program/deferred.ts';
import type { Reporter } from '../program/reporter.ts';
import type { Dialogue, Step, Verdict } from '../smtp/dialogue.ts';
import { reportEnd } from '../smtpd/program.ts';
import { endAfterOutput, ORPHAN_IDLE_TIMEOUT, type Smtpd, type SmtpdEnd } from '../smtpd/smtpd.ts';
import type { ByteStream } from '../stream/byte-stream.ts';
import { type IdleWatch, watchIdle } from '../stream/time.ts';
import { createWriteBuffer } from '../stream/write-buffer.ts';

/** The two sides of a dialogue, its limits and its events. */
export interface ConverseOptions {
  readonly dialogue: Dialogue;
  readonly client: ByteStream;
  readonly smtpd: Smtpd;
  /** The idle timeout in milliseconds. Each step of the dialogue renews it; a part of a line does not. */
  readonly idleTimeout: number;
  /** Settles when smtpd was asked to end; it may still send its closing reply. */
  readonly stopping: Promise<void>;
  /** Settles when the dialogue must end at once: the client gets a 421, and the verdict is `close`. */
  readonly abort: Promise<void>;
  /** Called when the client has reached the error limit; without it a warning is logged. */
  readonly errorLimitReached?: (() => void) | undefined;
  readonly report: Reporter;
}

/**
 * Replies to the client are collected and written when they reach this size in octets, so a write is at most this
 * and one line. A multiline reply should be in one packet: some clients read only the first.
 */
const FLUSH_SIZE = 16384;

/**
 * Drives a dialogue: passes input to it and carries out its steps, until the verdict.
 *
 * While either side has not taken all that was written to it, steps wait and neither side is read. That bounds
 * memory. When the verdict is given, both sources are paused, and nothing that was written is left in this
 * process.
 */
export function converse(options: ConverseOptions): Promise<Verdict> {
  const { dialogue, client, smtpd, report } = options;
  const { promise, resolve } = deferred<Verdict>();
  let clientStalled = false;
  let smtpdStalled = false;
  let isConcluding = false;
  /** Replies to be sent to the client in one write. */
  const replies = createWriteBuffer();
  /** A step that waits until they are written. */
  let deferredStep: Step | undefined;
  let verdict: Verdict | undefined;
  let smtpdEnd: SmtpdEnd | undefined;

  const idleTimeout = watchIdle(options.idleTimeout, () => {
    dialogue.timedOut();
    conclude();
  });
  const cancellations = [
    upon(options.stopping, () => dialogue.terminated()),
    upon(options.abort, () => {
      dialogue.timedOut();
      conclude();
    }),
    upon(smtpd.ended, watchOrphan),
  ];
  let orphan: IdleWatch | undefined;

  client.source.listen({
    bytes: (bytes) => {
      dialogue.fromClient(bytes);
      advance();
    },
    ended: clientEnded,
  });
  client.sink.listen({ drained: clientDrained, failed: clientEnded });
  smtpd.source.listen({
    bytes: (bytes) => {
      orphan?.active();
      dialogue.fromSmtpd(bytes);
      advance();
    },
    ended: smtpdOutputEnded,
  });
  // A failed write to smtpd needs no handling: the end of its output follows.
  smtpd.sink.listen({ drained: smtpdDrained, failed: smtpdDrained });
  advance();
  return promise;

  function advance(): void {
    let isActive = false;
    while (verdict === undefined && (isConcluding || (!clientStalled && !smtpdStalled))) {
      const step = deferredStep ?? dialogue.next();
      deferredStep = undefined;
      if (step !== undefined) isActive = true;
      if (step?.type === 'to-client') {
        replies.push(step.bytes);
        if (replies.size() >= FLUSH_SIZE) clientStalled = !flushReplies();
      } else if (replies.size() > 0) {
        deferredStep = step;
        clientStalled = !flushReplies();
      } else if (step === undefined) break;
      else carryOut(step);
    }
    // After the verdict both sides belong to the caller: late events must not pause them.
    if (verdict !== undefined) return;
    if (isActive) idleTimeout.active();
    if (clientStalled || smtpdStalled) return pauseBoth();
    smtpd.source.read();
    if (dialogue.wantsClient()) client.source.read();
    else client.source.pause();
  }

  /** Returns false if the client has not taken them all yet. */
  function flushReplies(): boolean {
    return client.sink.write(replies.take());
  }

  function carryOut(step: Exclude<Step, { type: 'to-client' }>): void {
    if (step.type === 'to-smtpd') smtpdStalled = !smtpd.sink.write(step.bytes);
    else if (step.type === 'end-smtpd') smtpd.sink.end();
    else if (step.type === 'verdict') decide(step.verdict);
    else if (step.about === 'smtpd-end') reportEnd(report, step.text, smtpdEnd);
    else if (step.about === 'error-limit' && options.errorLimitReached !== undefined) {
      options.errorLimitReached();
    } else report.warning(step.text);
  }

  /** Carries out the remaining steps up to the verdict, without waiting for a side that has stalled. */
  function conclude(): void {
    isConcluding = true;
    advance();
  }

  function clientDrained(): void {
    clientStalled = false;
    advance();
  }

  function smtpdDrained(): void {
    smtpdStalled = false;
    advance();
  }

  function clientEnded(): void {
    dialogue.clientEnded();
    clientDrained();
  }

  async function smtpdOutputEnded(): Promise<void> {
    smtpdEnd = await endAfterOutput(smtpd);
    dialogue.smtpdEnded();
    advance();
  }

  /** smtpd has exited. A process that it left behind may hold its output open and send nothing. */
  function watchOrphan(): void {
    if (verdict !== undefined) return;
    orphan = watchIdle(ORPHAN_IDLE_TIMEOUT, () => (clientStalled ? watchOrphan() : void smtpdOutputEnded()));
  }

  function decide(decision: Verdict): void {
    if (verdict !== undefined) return;
    verdict = decision;
    idleTimeout.stop();
    orphan?.stop();
    for (const cancel of cancellations) cancel();
    pauseBoth();
    resolve(decision);
  }

  function pauseBoth(): void {
    client.source.pause();
    smtpd.source.pause();
  }
}
