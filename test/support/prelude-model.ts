/**
 * What the prelude should do, implemented a second time in another way: see model.ts. It shares no code with lib/smtp
 * except the text of our own replies.
 */

import { REPLIES } from '../../lib/smtp/reply.ts';

/** The longest line, with its line ending. */
const LIMIT = 12288;

const HTTP = ['CONNECT', 'DELETE', 'GET', 'HEAD', 'OPTIONS', 'PATCH', 'POST', 'PRI', 'PUT', 'TRACE'];

/** What a prelude is created with: each reply as it is sent. */
export interface PreludeModelOptions {
  readonly greeting: string;
  readonly ehlo: string;
  readonly helo: string;
  readonly hello: string | undefined;
  readonly errorLimit: number;
}

/** The model of one prelude. */
export interface PreludeModel {
  /** This many more octets of the client were read. */
  read(octets: number): void;
  clientEnded(): void;
  timedOut(): void;
  refuse(reply: string): void;
  /**
   * All that should happen now: `S` and text for the client, `!` for a notice, `?` and the hello when smtpd is needed,
   * `=` at the end.
   */
  settle(): string;
  /** What was read and not consumed, without the command that needs smtpd if it `isDropped`. */
  rest(isDropped: boolean): string;
}

/**
 * Creates a model.
 *
 * @param stream all that the client will send.
 */
export function createPreludeModel(stream: string, options: PreludeModelOptions): PreludeModel {
  let readTo = 0;
  /** Where the first line begins that is not consumed. It may not have been read yet. */
  let at = 0;
  let { hello } = options;
  let errors = 0;
  let clientHasEnded = false;
  let state: 'open' | 'needed' | 'ended' = 'open';
  let out = `S${options.greeting}`;

  /** The position behind the first line; 0 if it is incomplete. */
  function lineEnd(): number {
    const end = stream.indexOf('\n', at) + 1;
    return end > readTo ? 0 : end;
  }

  function send(reply: string): void {
    out += `S${reply}`;
  }

  function refuse(reply: string): void {
    send(reply);
    if (++errors < options.errorLimit) return;
    out += '!';
    close(`${REPLIES.tooManyErrors}`);
  }

  function close(reply: string): void {
    send(reply);
    end();
  }

  function end(): void {
    out += '=';
    state = 'ended';
  }

  function step(): boolean {
    if (state !== 'open') return false;
    const next = lineEnd();
    if (next > 0) {
      handle(stream.slice(at, next), next);
      return true;
    }
    if (clientHasEnded) end();
    return false;
  }

  function handle(raw: string, next: number): void {
    const start = at;
    at = next;
    const line = raw.replace(/\r?\n$/, '');
    if (raw.length > LIMIT) return refuse(`${REPLIES.tooLong}`);
    if (/[\r\0]/.test(line)) return refuse(`${REPLIES.controls}`);
    const [verb = '', size = ''] = line.trim().split(/\s+/);
    switch (verb.toUpperCase()) {
      case '':
        return refuse(`${REPLIES.noCommand}`);
      case 'EHLO':
        hello = line;
        return send(options.ehlo);
      case 'HELO':
        hello = line;
        return send(options.helo);
      case 'NOOP':
      case 'RSET':
        return send(`${REPLIES.ok}`);
      case 'QUIT':
        return close(`${REPLIES.bye}`);
      case 'STARTTLS':
        return refuse(`${REPLIES.noSecondTls}`);
      case 'BDAT':
        at += Number.parseInt(/^\d/.test(size) ? size : '0', 10);
        return refuse(`${REPLIES.mailFirst}`);
      case 'RCPT':
      case 'DATA':
        return refuse(`${REPLIES.mailFirst}`);
    }
    at = start;
    if (HTTP.includes(verb.toUpperCase())) {
      out += '!';
      return close(`${REPLIES.notHttp}`);
    }
    state = 'needed';
    out += `?${hello}`;
  }

  return {
    read: (octets) => {
      readTo += octets;
    },
    clientEnded: () => {
      clientHasEnded = true;
    },
    timedOut: () => {
      if (state === 'open') close(`${REPLIES.tooSlow}`);
    },
    refuse: (reply) => {
      state = 'open';
      at = lineEnd();
      refuse(reply);
    },
    settle: () => {
      while (step());
      const now = out;
      out = '';
      return now;
    },
    rest: (isDropped) => stream.slice(isDropped ? lineEnd() : at, readTo),
  };
}
