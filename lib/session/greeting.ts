import { createLineReader } from '../smtp/line.ts';
import { parseReplyLine } from '../smtp/reply.ts';
import type { Smtpd } from '../smtpd/smtpd.ts';
import { watchIdle } from '../stream/time.ts';

/** The longest greeting that is accepted, in octets. */
const GREETING_LIMIT = 65536;

/** The outcome of reading a second greeting. */
export type Greeting =
  /**
   * The bytes for the client: those that arrived right after the greeting, usually none. A greeting that refuses
   * service is given complete, because it serves as the reply to the client's next command.
   */
  | { readonly forClient: Buffer }
  /** No greeting was read, because of `fault`; without a fault, smtpd has closed its output. */
  | { readonly forClient: undefined; readonly fault?: string };

/**
 * Reads the greeting of a second smtpd. The client must not see it, because it has had a greeting.
 *
 * Memory: at most `GREETING_LIMIT` and one read.
 *
 * @param idleTimeout how long smtpd may send nothing, in milliseconds.
 * @param abort settles to give up.
 * @returns the outcome. The source is paused then.
 */
export function readGreeting(smtpd: Smtpd, idleTimeout: number, abort: Promise<void>): Promise<Greeting> {
  const reader = createLineReader();
  const received: Buffer[] = [];
  let size = 0;
  let settled = false;
  return new Promise((resolve) => {
    const settle = (greeting: Greeting): void => {
      // Aborted after the greeting: the source belongs to the relay by now.
      if (settled) return;
      settled = true;
      watch.stop();
      smtpd.source.pause();
      resolve(greeting);
    };
    const fail = (fault: string): void => settle({ forClient: undefined, fault });
    const watch = watchIdle(idleTimeout, () => fail('idle timeout'));
    void abort.then(() => fail('shutting down'));
    smtpd.source.listen({
      bytes: (bytes) => {
        watch.active();
        size += bytes.length;
        if (size > GREETING_LIMIT) return fail('it is too long');
        received.push(Buffer.from(bytes));
        reader.push(bytes);
        for (let line = reader.peek(); line !== undefined; line = reader.peek()) {
          reader.drop();
          const reply = line.fault === undefined ? parseReplyLine(line.text) : undefined;
          if (reply === undefined) return fail('invalid SMTP reply');
          if (reply.last) {
            return settle({ forClient: reply.code < 300 ? reader.rest() : Buffer.concat(received) });
          }
        }
      },
      ended: () => settle({ forClient: undefined }),
    });
    smtpd.source.read();
  });
}
