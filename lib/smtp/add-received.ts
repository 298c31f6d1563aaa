import type { Command } from './command.ts';
import type { Decision, EnvelopeOptions } from './envelope.ts';
import { formatReceived, type Received, type ReceivedProtocol } from './received.ts';

/** What the Received fields of a session have in common. */
export interface AddReceivedOptions extends Pick<Received, 'by' | 'clientAddress'> {
  /** As in `Received`; each message gets a number behind it. */
  readonly id: string;
  /** The TLS session at the moment. */
  tls(): Received['tls'];
  /** The time, in milliseconds since 1970. */
  now(): number;
}

type Decide = EnvelopeOptions['decide'];

/** BDAT whose size is certain. Others pass without a field: smtpd refuses them, or reads them in a way of its own. */
const CHUNK = /^(\d{1,15})(\s+LAST)?$/i;

const AUTHENTICATED = 235;

/**
 * Adds a Received field to each message of a session: after 354, or with the first chunk, whose size is raised by it.
 *
 * @param decide what else is decided on commands.
 * @returns what decides on each command of one session.
 */
export function addReceived(decide: Decide, options: AddReceivedOptions): Decide {
  let hello: { readonly verb: ReceivedProtocol['hello']; readonly name: string } | undefined;
  let isAuthenticated = false;
  let isUtf8 = false;
  let count = 0;
  /** A message in chunks has begun: its field is in the first one. */
  let hasChunks = false;
  /** How many replies are missing that may change the client's name, or end such a message. */
  const missing = { hellos: 0, endings: 0 };

  function field(): Buffer {
    count += 1;
    const lines = formatReceived({
      ...{ by: options.by, clientAddress: options.clientAddress, tls: options.tls() },
      helloName: hello?.name,
      protocol: { hello: hello?.verb ?? 'HELO', isAuthenticated, isUtf8 },
      id: `${options.id}.${count}`,
      date: new Date(options.now()),
    });
    return Buffer.from(`${lines.join('\r\n')}\r\n`, 'latin1');
  }

  function passChunk(decision: Decision & { type: 'pass' }, argument: string): Decision {
    const [, size, last = ''] = CHUNK.exec(argument) ?? [];
    if (size === undefined) return decision;
    const isFirst = !hasChunks;
    hasChunks = last === '';
    if (!isFirst) return decision;
    const prefix = field();
    return { ...decision, prefix, line: `BDAT ${Number(size) + prefix.length}${last}` };
  }

  /** @returns what is to be done with the code of the reply to a command that passes; undefined if nothing. */
  function expect({ verb, argument }: Command): ((code: number) => void) | undefined {
    switch (verb) {
      case 'AUTH':
        return (code) => {
          isAuthenticated ||= code === AUTHENTICATED;
        };
      case 'MAIL': {
        const before = isUtf8;
        // DATA may be sent before the reply to MAIL is known.
        isUtf8 = /\sSMTPUTF8(?:\s|$)/i.test(argument);
        return expectEnding((isAccepted) => {
          if (!isAccepted) isUtf8 = before;
        });
      }
      case 'RSET':
        return expectEnding(() => {});
      case 'EHLO':
      case 'HELO':
      case 'LHLO':
        missing.hellos += 1;
        return expectEnding((isAccepted) => {
          missing.hellos -= 1;
          if (isAccepted) hello = { verb, name: argument };
        });
    }
    return undefined;
  }

  function expectEnding(replied: (isAccepted: boolean) => void): (code: number) => void {
    // Chunks that are sent behind it, before its reply, are not those that it ends.
    const ends = hasChunks ? 1 : 0;
    missing.endings += ends;
    return (code) => {
      missing.endings -= ends;
      if (code < 300 && ends > 0) hasChunks = false;
      replied(code < 300);
    };
  }

  return (command, text, isQuiet) => {
    const { verb, argument, kind } = command;
    const isMessage = verb === 'DATA' || kind === 'chunk';
    // Only then it is known what the field says, and whether there is one.
    if (isMessage && (hasChunks ? missing.endings : missing.hellos) > 0) return { type: 'after-replies' };
    const decision = decide(command, text, isQuiet);
    if (decision.type !== 'pass') return decision;
    if (kind === 'chunk') return passChunk(decision, argument);
    if (verb === 'DATA') return hasChunks ? decision : { ...decision, prefix: field() };
    const learn = expect(command);
    if (learn === undefined) return decision;
    const replied = (code: number): void => {
      decision.replied?.(code);
      learn(code);
    };
    return { ...decision, replied };
  };
}
