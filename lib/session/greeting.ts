import { createLineReader } from '../smtp/line.ts';
import { parseReplyLine } from '../smtp/reply.ts';
import type { Child } from '../stream/child.ts';
import { watchIdle } from '../stream/time.ts';

/** The longest greeting that is taken, in octets. */
const GREETING_LIMIT = 65536;

/** How a second greeting went. */
export type Greeting =
  /**
   * What the client must see: what came right behind the greeting, nothing as a rule. A greeting that
   * refuses service is no secret and is given whole: it stands as the reply to the client's next command.
   */
  | { readonly forClient: Buffer }
  /** There was none: why, where it is not that smtpd has ended its output. */
  | { readonly forClient: undefined; readonly fault?: string };

/**
 * Reads the greeting of a second smtpd, which the client must not see, because it has had one.
 *
 * Memory: `GREETING_LIMIT` and one read.
 *
 * @param idleTimeout how long smtpd may say nothing, in milliseconds.
 * @param abort settles when it is to give up.
 * @returns how that went. The source is paused then.
 */
export function swallowGreeting(smtpd: Child, idleTimeout: number, abort: Promise<void>): Promise<Greeting> {
  const reader = createLineReader();
  const said: Buffer[] = [];
  let octets = 0;
  let settled = false;
  return new Promise((resolve) => {
    const settle = (greeting: Greeting): void => {
      // Told to end after the greeting: the source is the relay's by now.
      if (settled) return;
      settled = true;
      watch.stop();
      smtpd.source.pause();
      resolve(greeting);
    };
    const fail = (fault: string): void => settle({ forClient: undefined, fault });
    const watch = watchIdle(idleTimeout, () => fail('it said nothing for too long'));
    void abort.then(() => fail('it was told to end'));
    smtpd.source.listen({
      bytes: (bytes) => {
        watch.active();
        octets += bytes.length;
        if (octets > GREETING_LIMIT) return fail('its greeting is too long');
        said.push(Buffer.from(bytes));
        reader.push(bytes);
        for (let line = reader.peek(); line !== undefined; line = reader.peek()) {
          reader.drop();
          const reply = line.fault === undefined ? parseReplyLine(line.text) : undefined;
          if (reply === undefined) return fail('what it said is no SMTP reply');
          if (reply.last) {
            return settle({ forClient: reply.code < 300 ? reader.rest() : Buffer.concat(said) });
          }
        }
      },
      ended: () => settle({ forClient: undefined }),
    });
    smtpd.source.read();
  });
}
