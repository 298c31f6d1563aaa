import { createLineReader } from '../smtp/line.ts';
import { parseReplyLine } from '../smtp/reply.ts';
import type { Child } from '../stream/child.ts';
import { watchSilence } from '../stream/time.ts';

/** The longest greeting that is taken, in octets. */
const GREETING_LIMIT = 65536;

/**
 * Reads the greeting of a second smtpd, which the client must not see, because it has had one.
 *
 * Memory: `GREETING_LIMIT` and one read.
 *
 * @param silence how long smtpd may say nothing, in milliseconds.
 * @param hurry settles when it is to give up.
 * @returns what the client must see: what came right behind the greeting, nothing as a rule. A greeting
 * that refuses service is no secret and is given whole: it stands as the reply to the client's next
 * command. Undefined when smtpd did not greet. The source is paused.
 */
export function swallowGreeting(
  smtpd: Child,
  silence: number,
  hurry: Promise<void>,
): Promise<Buffer | undefined> {
  const reader = createLineReader();
  const said: Buffer[] = [];
  let octets = 0;
  return new Promise((resolve) => {
    const give = (bytes: Buffer | undefined): void => {
      watch.stop();
      smtpd.source.pause();
      resolve(bytes);
    };
    const fail = (): void => give(undefined);
    const watch = watchSilence(silence, fail);
    void hurry.then(fail);
    smtpd.source.listen({
      bytes: (bytes) => {
        watch.heard();
        octets += bytes.length;
        if (octets > GREETING_LIMIT) return fail();
        said.push(Buffer.from(bytes));
        reader.push(bytes);
        for (let line = reader.peek(); line !== undefined; line = reader.peek()) {
          reader.drop();
          const reply = line.fault === undefined ? parseReplyLine(line.text) : undefined;
          if (reply === undefined) return fail();
          if (reply.last) return give(reply.code < 300 ? reader.rest() : Buffer.concat(said));
        }
      },
      ended: fail,
    });
    smtpd.source.read();
  });
}
