import { type Command, chunkSize, isChunkCommand, isLastChunk } from './command.ts';
import type { Decide, Decision } from './decision.ts';
import { formatReceived, type Received, type ReceivedProtocol } from './received.ts';
import { REPLIES } from './reply.ts';

/** What the Received fields of a session have in common. */
export interface AddReceivedOptions extends Pick<Received, 'by' | 'clientAddress'> {
  /** As in `Received`; each message gets a number behind it. */
  readonly id: string;
  /** The TLS session at the moment. */
  tls(): Received['tls'];
  /** The time, in milliseconds since 1970. */
  now(): number;
}

const AUTHENTICATED = 235;

/**
 * Adds a Received field to each message of a session: after 354, or with the first chunk, whose size is raised by it.
 *
 * A chunk, and DATA, wait until the chunk before has been accepted. If that was refused, they are too, until RSET or MAIL is
 * accepted (RFC 3030 section 2): an smtpd that takes a later chunk for the first one would get a message without a field.
 *
 * @param decide what else is decided on commands.
 * @returns what decides on each command of one session.
 */
export function addReceived(decide: Decide, options: AddReceivedOptions): Decide {
  let hello: { readonly verb: ReceivedProtocol['hello']; readonly name: string } | undefined;
  let isAuthenticated = false;
  /** Whether MAIL had SMTPUTF8: the last that was accepted, and the last; how many replies to it are outstanding. */
  const utf8 = { accepted: false, last: false, outstanding: 0 };
  let count = 0;
  /** What has become of the message in chunks, as far as the replies are known. */
  let chunks: 'none' | 'begun' | 'refused' = 'none';
  /** How many replies are outstanding that may change this, or the client's name. */
  let outstanding = 0;

  function field(): Buffer {
    count += 1;
    // DATA may be sent before the reply to MAIL is known.
    const isUtf8 = utf8.outstanding > 0 ? utf8.last : utf8.accepted;
    const lines = formatReceived({
      by: options.by,
      clientAddress: options.clientAddress,
      tls: options.tls(),
      helloName: hello?.name,
      protocol: { hello: hello?.verb ?? 'HELO', isAuthenticated, isUtf8 },
      id: `${options.id}.${count}`,
      date: new Date(options.now()),
    });
    return Buffer.from(`${lines.join('\r\n')}\r\n`, 'latin1');
  }

  function passChunk(decision: Passed, argument: string): Decision {
    const isLast = isLastChunk(argument);
    const prefix = chunks === 'none' ? field() : undefined;
    const line = `BDAT ${chunkSize(argument) + (prefix?.length ?? 0)}${isLast ? ' LAST' : ''}`;
    if (!isChunkCommand(line)) return { type: 'answer', reply: REPLIES.badChunk };
    const replied = settle((isAccepted) => {
      chunks = !isAccepted ? 'refused' : isLast ? 'none' : 'begun';
    });
    return also(replied, { ...decision, line, ...(prefix && { prefix }) });
  }

  /** @returns what is to be done with the code of the reply to a command that passes; undefined if nothing. */
  function onReplyTo({ verb, argument }: Command): ((code: number) => void) | undefined {
    switch (verb) {
      case 'AUTH':
        return (code) => {
          isAuthenticated ||= code === AUTHENTICATED;
        };
      case 'MAIL': {
        const isUtf8 = /\sSMTPUTF8(?:\s|$)/i.test(argument);
        utf8.last = isUtf8;
        utf8.outstanding += 1;
        return expectEnding((isAccepted) => {
          utf8.outstanding -= 1;
          if (isAccepted) utf8.accepted = isUtf8;
        });
      }
      case 'RSET':
        return expectEnding(() => {});
      case 'EHLO':
      case 'HELO':
      case 'LHLO':
        return settle((isAccepted) => {
          if (!isAccepted) return;
          chunks = 'none';
          hello = { verb, name: argument };
        });
    }
    return undefined;
  }

  /** Of a reply to a command that ends a message in chunks. Without one, the next message need not wait for it. */
  function expectEnding(replied: (isAccepted: boolean) => void): (code: number) => void {
    if (chunks === 'none' && outstanding === 0) return (code) => replied(code < 300);
    return settle((isAccepted) => {
      if (isAccepted) chunks = 'none';
      replied(isAccepted);
    });
  }

  function settle(replied: (isAccepted: boolean) => void): (code: number) => void {
    outstanding += 1;
    return (code) => {
      outstanding -= 1;
      replied(code < 300);
    };
  }

  return (command, text, isQuiet) => {
    const { verb, argument, kind } = command;
    // The envelope refuses it.
    if (kind === 'chunk' && !isChunkCommand(text.toString('latin1'))) return decide(command, text, isQuiet);
    const isMessage = verb === 'DATA' || kind === 'chunk';
    // Whether there is a field, and what it contains, is known only then.
    if (isMessage && outstanding > 0 && !isQuiet) return { type: 'after-replies' };
    const decision = decide(command, text, isQuiet);
    if (decision.type !== 'pass') return decision;
    if (isMessage && (chunks === 'refused' || (chunks === 'begun' && kind !== 'chunk'))) {
      return { type: 'answer', reply: REPLIES.resetFirst };
    }
    if (kind === 'chunk') return passChunk(decision, argument);
    if (verb === 'DATA') return { ...decision, prefix: field() };
    const replied = onReplyTo(command);
    return replied === undefined ? decision : also(replied, decision);
  };
}

type Passed = Decision & { readonly type: 'pass' };

function also(replied: (code: number) => void, decision: Passed): Decision {
  return {
    ...decision,
    replied: (code: number) => {
      decision.replied?.(code);
      replied(code);
    },
  };
}
