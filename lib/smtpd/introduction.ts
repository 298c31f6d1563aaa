import type { Introduction } from '../smtp/prelude.ts';
import { extensionKeyword } from '../smtp/reply.ts';
import { isPositive, type Reply } from '../smtp/reply-reader.ts';
import { after } from '../stream/time.ts';
import { holdOpening } from './hold-opening.ts';
import { describeEnd } from './program.ts';
import { endAfterOutput, endSmtpd, type Smtpd } from './smtpd.ts';

/** How long learning may take, in milliseconds. */
const LEARN_TIMEOUT = 30_000;

/** The name with which smtpd is greeted: an address, as from a client without a name (RFC 5321 section 4.1.4). */
const CLIENT_NAME = '[127.0.0.1]';

/**
 * Learns how an smtpd introduces itself, from a short session: EHLO, HELO, QUIT.
 *
 * STARTTLS is left out of the reply to EHLO: this program offers it instead, or TLS has been started. The text after
 * the name in the first line of a reply is left out if it has the client's address, because that is ours.
 *
 * @param smtpd has just been started. It is ended afterwards.
 * @param idleTimeout how long smtpd may send nothing, in milliseconds. The whole may take `LEARN_TIMEOUT`.
 * @param abort settles to give up: smtpd gets SIGTERM at once.
 * @throws Error with the reason.
 */
export async function learnIntroduction(
  smtpd: Smtpd,
  idleTimeout: number,
  abort: Promise<void>,
): Promise<Introduction> {
  const hellos = ['EHLO', 'HELO'].map((verb) => `${verb} ${CLIENT_NAME}`);
  const limit = after(LEARN_TIMEOUT);
  const timedOut = limit.passed.then(() => 'timed out');
  void abort.then(() => smtpd.kill('SIGTERM'));
  const { outcome } = await holdOpening(smtpd, hellos, idleTimeout, Promise.race([abort, timedOut]));
  limit.cancel();
  try {
    if (outcome.type === 'broken') {
      throw new Error(outcome.why ?? describeEnd(await endAfterOutput(smtpd)));
    }
    if (outcome.type === 'refused') {
      throw refusal(outcome.hello === undefined ? 'service' : 'HELO', outcome.reply);
    }
    const [ehlo, helo] = outcome.replies;
    if (ehlo === undefined || helo === undefined) throw new Error('invalid SMTP reply');
    if (!isPositive(ehlo)) throw refusal('EHLO', ehlo);
    smtpd.sink.write(Buffer.from('QUIT\r\n'));
    return {
      greeting: outcome.greeting,
      ehlo: withoutClient(withoutStarttls(ehlo)),
      helo: withoutClient(helo),
    };
  } finally {
    await endSmtpd(smtpd);
  }
}

function refusal(what: string, { code, texts }: Reply): Error {
  return new Error(`it refused ${what}: ${code} ${texts[0] ?? ''}`);
}

function withoutStarttls({ code, texts }: Reply): Reply {
  const isKept = (text: string, index: number): boolean =>
    index === 0 || extensionKeyword(text) !== 'STARTTLS';
  return { code, texts: texts.filter(isKept) };
}

/** The first line is the name of the server and an optional text (RFC 5321 section 4.1.1.1, ehlo-greet). */
function withoutClient({ code, texts: [first = '', ...others] }: Reply): Reply {
  const [name = '', ...words] = first.split(' ');
  const isAboutClient = /\b127\.0\.0\.1\b/.test(words.join(' '));
  return { code, texts: [isAboutClient ? name : first, ...others] };
}
