import { deferred } from '../program/deferred.ts';
import { EXIT } from '../program/failure.ts';
import type { Reporter } from '../program/reporter.ts';
import { REPLIES } from '../smtp/reply.ts';
import type { SmtpdEnd } from '../smtpd/smtpd.ts';
import type { ByteStream } from '../stream/byte-stream.ts';
import { hangUp } from '../stream/hang-up.ts';
import { within } from '../stream/time.ts';

/** The client whose greeting is held back. */
export interface GreetDelayOptions {
  readonly client: ByteStream;
  /** For how long, in milliseconds; at most 2^31 - 1. */
  readonly greetDelay: number;
  /** Called when the client has sent data before the greeting; without it a warning is logged. */
  readonly earlyTalker?: () => void;
  readonly report: Reporter;
}

/**
 * Holds the greeting back. A client that sends data before it, which RFC 5321 section 4.3.1 forbids, gets a 554 and
 * is closed. A client that closes or half-closes the connection is closed too; on a signal it gets a 421.
 *
 * Nothing is read from a client that waits for the greeting. Its source is paused afterwards.
 *
 * @param stopping settles when the session must end.
 * @returns undefined if the greeting is due; else how the session has ended, without an smtpd: with status 111 on a
 * signal, otherwise 0.
 */
export async function delayGreeting(
  { client, greetDelay, earlyTalker, report }: GreetDelayOptions,
  stopping: Promise<void>,
): Promise<SmtpdEnd | undefined> {
  const { promise: cancelled, resolve: cancel } = deferred<'early-talker' | 'client-ended' | 'stopping'>();
  client.source.listen({ bytes: () => cancel('early-talker'), ended: () => cancel('client-ended') });
  client.source.read();
  void stopping.then(() => cancel('stopping'));
  const cause = await within(greetDelay, cancelled);
  client.source.pause();
  if (cause === undefined) return undefined;

  if (cause === 'stopping') client.sink.write(REPLIES.shuttingDown);
  else if (cause === 'early-talker') {
    if (earlyTalker === undefined) report.warning('the client sent data before the greeting, closing');
    else earlyTalker();
    client.sink.write(REPLIES.earlyTalker);
  }
  await hangUp(client);
  return { status: cause === 'stopping' ? EXIT.systemCallFailed : EXIT.success };
}
