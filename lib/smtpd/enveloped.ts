import type { Reporter } from '../program/reporter.ts';
import { createEnvelope, type EnvelopeOptions, type EnvelopeStep } from '../smtp/envelope.ts';
import { REPLIES } from '../smtp/reply.ts';
import { createFront } from '../stream/front.ts';
import { createHeldWriter } from '../stream/held-writer.ts';
import { endSmtpd, type Smtpd } from './smtpd.ts';

/** The settings of an envelope around an smtpd. */
export interface EnvelopedOptions extends Pick<EnvelopeOptions, 'decide' | 'strictNewlines'> {
  readonly report: Reporter;
  /** See `Smtpd`. */
  readonly tlsStarted?: NonNullable<Smtpd['tlsStarted']>;
}

/**
 * Puts an envelope around an smtpd: what the client sends passes through `decide`, command by command. It ends as the
 * smtpd does; after a reply with `end`, and after an invalid reply of the smtpd, the smtpd is ended.
 *
 * Memory: see `createEnvelope`; and what the client sends in one piece, once more, while the smtpd reads nothing.
 */
export function enveloped(smtpd: Smtpd, { report, tlsStarted, ...options }: EnvelopedOptions): Smtpd {
  const envelope = createEnvelope({
    ...options,
    awaitsGreeting: true,
    messageRefused: () => report.warning('message refused: it contains a bare CR or LF, closing'),
  });
  /** What either side sends does not matter any more. */
  let isOver = false;
  const output = createHeldWriter(smtpd.sink);
  let hasSmtpdEnded = false;
  /** The client takes no more. */
  let isClientFull = false;
  const front = createFront({
    received: (bytes) => {
      if (isOver) return wantsClient();
      envelope.fromClient(bytes);
      advance();
      return wantsClient();
    },
    drained: () => {
      isClientFull = false;
      smtpd.source.read();
      advanceAndProceed();
    },
    ended: () => {
      envelope.clientEnded();
      advanceAndProceed();
    },
    closed() {},
  });
  smtpd.source.listen({
    bytes: (bytes) => {
      if (isOver) return;
      envelope.fromSmtpd(bytes);
      advanceAndProceed();
    },
    ended: () => {
      hasSmtpdEnded = true;
      if (isOver) front.end();
      advanceAndProceed();
    },
  });
  smtpd.sink.listen({
    drained: () => {
      output.drained();
      if (wantsClient()) front.proceed();
    },
    failed: () => {
      output.drop();
      if (wantsClient()) front.proceed();
    },
  });

  function wantsClient(): boolean {
    // What waits for smtpd may be in the memory of the client: it would be overwritten.
    return (
      !output.isFull() && (isOver || (!isClientFull && (envelope.wantsClient() || envelope.readsAhead())))
    );
  }

  function advanceAndProceed(): void {
    advance();
    if (wantsClient()) front.proceed();
  }

  function advance(): void {
    while (!isOver && !isClientFull) {
      const step = envelope.next();
      if (step !== undefined) carryOut(step);
      else if (hasSmtpdEnded) return front.end();
      else return;
    }
  }

  function carryOut(step: EnvelopeStep): void {
    switch (step.type) {
      case 'to-client':
        isClientFull = !front.send(step.bytes);
        if (isClientFull) smtpd.source.pause();
        return;
      case 'to-smtpd':
        return output.write(step.bytes);
      case 'end-smtpd':
        return output.end();
      case 'invalid-reply':
        report.warning('smtpd sent an invalid SMTP reply, closing');
        front.send(REPLIES.smtpdFailed);
        return finish();
      case 'smtpd-closing':
      case 'end':
        finish();
    }
  }

  function finish(): void {
    isOver = true;
    front.end();
    void endSmtpd(smtpd);
  }

  const { source, sink } = front.stream;
  return {
    get label() {
      return smtpd.label;
    },
    get pid() {
      return smtpd.pid;
    },
    ended: smtpd.ended,
    ...(tlsStarted && { tlsStarted }),
    kill: smtpd.kill,
    source: {
      ...source,
      // The client is gone: no reply will come that would let its next bytes pass.
      close: () => {
        isOver = true;
        source.close();
        smtpd.source.close();
        output.end();
      },
    },
    sink: {
      ...sink,
      close: () => {
        isOver = true;
        output.drop();
        sink.close();
        smtpd.sink.close();
      },
    },
  };
}
