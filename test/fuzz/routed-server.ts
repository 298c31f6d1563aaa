/** A server behind a routing, which checks the order of what it gets. */

import type { Random } from './random.ts';
import { check } from './violation.ts';

/** A message that a server has accepted. Text is latin1, with the line of a dot behind DATA. */
export interface Delivery {
  readonly key: string;
  readonly sender: string;
  readonly recipients: readonly string[];
  readonly text: string;
}

/** A server. */
export interface RoutedServer {
  /**
   * Takes what it gets.
   *
   * @param owesReplies whether replies of it are on the way.
   * @returns its replies.
   */
  take(text: string, owesReplies: boolean): string;
  /** Whether it is not in a transaction with a message, nor in a line. */
  isIdle(): boolean;
}

/** Creates a server; it refuses what has "refused" in it, and now and then something else. */
export function createRoutedServer(
  key: string,
  canPipeline: boolean,
  random: Random,
  delivered: Delivery[],
): RoutedServer {
  let input = '';
  let inMessage = false;
  let sender: string | undefined;
  let recipients: string[] = [];
  let chunks = '';
  let hasFailed = false;

  function reset(): void {
    sender = undefined;
    recipients = [];
    chunks = '';
    hasFailed = false;
  }

  function reply(code: number): string {
    return random.chance(20) ? `${code}-first\r\n${code} last\r\n` : `${code} text\r\n`;
  }

  /** @returns the reply to a whole message. */
  function deliver(text: string): string {
    const isRefused = text.includes('refused');
    if (!isRefused) delivered.push({ key, sender: sender ?? '', recipients, text });
    reset();
    return reply(isRefused ? 550 : 250);
  }

  /** @returns the reply to a chunk. After a refused one, RSET has to follow. */
  function takeChunk(chunk: string, isLast: boolean): string {
    if (recipients.length === 0 || hasFailed || random.chance(10)) {
      hasFailed = true;
      return reply(503);
    }
    chunks += chunk;
    return isLast ? deliver(chunks) : reply(250);
  }

  function handle(line: string): string {
    const [verb = ''] = line.split(' ');
    const address = /<(.*)>/.exec(line)?.[1] ?? '';
    const isRefused = address.startsWith('refused') || random.chance(5);
    switch (verb) {
      case 'MAIL':
        check(sender === undefined, `${line} in a transaction`);
        if (isRefused) return reply(553);
        sender = address;
        return reply(250);
      case 'RCPT':
        if (sender === undefined) return reply(503);
        check(key !== 'one.example' || recipients.length === 0, `${line} is one too many`);
        if (isRefused) return reply(550);
        recipients.push(address);
        return reply(250);
      case 'DATA':
        if (recipients.length === 0 || isRefused) return reply(554);
        inMessage = true;
        return reply(354);
      case 'RSET':
        reset();
        return reply(250);
      default:
        check(['NOOP', 'VRFY', 'QUIT'].includes(verb), `there is no ${line}`);
        return reply(verb === 'QUIT' ? 221 : 250);
    }
  }

  /** @returns the replies to the next command or message; undefined if it is not whole. */
  function next(): string | undefined {
    if (inMessage) {
      // The line ending of DATA is that of the line before.
      const end = `\r\n${input}`.indexOf('\r\n.\r\n') + 3;
      if (end < 3) return undefined;
      inMessage = false;
      return deliver(takeText(end));
    }
    const end = input.indexOf('\r\n') + 2;
    if (end < 2) return undefined;
    const chunk = /^BDAT (\d+)( LAST)?\r\n/.exec(input);
    if (chunk === null) return handle(takeText(end).slice(0, -2));
    const size = Number(chunk[1]);
    if (input.length < end + size) return undefined;
    takeText(end);
    return takeChunk(takeText(size), chunk[2] !== undefined);
  }

  function takeText(count: number): string {
    const text = input.slice(0, count);
    input = input.slice(count);
    return text;
  }

  return {
    take: (text, owesReplies) => {
      check(canPipeline || !owesReplies, `one command at a time, not ${JSON.stringify(text)}`);
      input += text;
      let replies = '';
      for (let more = next(); more !== undefined; more = next()) replies += more;
      return replies;
    },
    isIdle: () => input === '' && !inMessage,
  };
}
