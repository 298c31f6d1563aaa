import type { Duplex } from 'node:stream';

/** The client's side of an SMTP session over one stream. */
export interface Conversation {
  /** Waits for the next whole reply. @throws Error when the stream ends instead. */
  reply(): Promise<string>;
  /** Sends and waits for the reply. @throws Error when its code begins with another digit than `digit`. */
  command(bytes: string | Uint8Array, digit: string): Promise<void>;
  /** Lets go of the stream. */
  leave(): void;
}

/** The last line of a reply (RFC 5321 section 4.2), at the end of what came. */
const LAST_LINE = /(?:^|\n)\d{3}(?: [^\n]*)?\r?\n$/;

/** A reply that is longer is none, in octets. */
const REPLY_LIMIT = 65_536;

/** Begins a conversation; the stream is read from now on. */
export function startConversation(stream: Duplex): Conversation {
  let received = '';
  let ended: Error | undefined;
  let wake: (() => void) | undefined;

  function onData(bytes: Buffer): void {
    received += bytes.toString('latin1');
    if (received.length > REPLY_LIMIT) stream.destroy(new Error('a reply without an end'));
    else if (LAST_LINE.test(received)) wake?.();
  }
  function onEnd(): void {
    ended ??= new Error(`the server has hung up after ${JSON.stringify(received.slice(-100))}`);
    wake?.();
  }
  function onError(error: Error): void {
    ended ??= error;
    wake?.();
  }
  stream.on('data', onData);
  stream.on('end', onEnd);
  stream.on('close', onEnd);
  stream.on('error', onError);

  async function reply(): Promise<string> {
    while (!LAST_LINE.test(received)) {
      if (ended !== undefined) throw ended;
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
    const whole = received;
    received = '';
    return whole;
  }

  return {
    reply,
    command: async (bytes, digit) => {
      stream.write(bytes);
      const answer = await reply();
      if (!answer.startsWith(digit)) throw new Error(`the server sent ${JSON.stringify(answer)}`);
    },
    leave: () => {
      stream.off('data', onData);
      stream.off('end', onEnd);
      stream.off('close', onEnd);
    },
  };
}
