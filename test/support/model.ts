/**
 * What the dialogue should do, implemented a second time in another way, to compare the two.
 *
 * The model keeps everything that either side has sent as one text: a command or a reply is a position in it. That
 * costs unlimited memory and time, and avoids what is error-prone in lib/smtp: there is no line reader, no buffer,
 * nothing to drop or to skip. It shares no code with lib/smtp except the text of our own replies; which of them is
 * due is decided here.
 */

import type { DialogueOptions, Verdict } from '../../lib/smtp/dialogue.ts';
import { REPLIES } from '../../lib/smtp/reply.ts';

/** The longest line, with its line ending. */
const LIMIT = 12288;

const HTTP = /^(?:CONNECT|DELETE|GET|HEAD|OPTIONS|PATCH|POST|PRI|PUT|TRACE)$/;

/** The model of one connection. */
export interface Model {
  /** This many more octets of the client were read. */
  read(octets: number): void;
  /** smtpd has sent this. */
  smtpdSent(text: string): void;
  clientEnded(): void;
  smtpdEnded(): void;
  timedOut(): void;
  /**
   * All that should happen now, until more input is needed: `S` and text for the client, `>` and text
   * for smtpd, `(end)`, `!` for a notice, `=` and a verdict.
   */
  settle(): string;
  /** Whether the client should be read now. */
  wantsClient(): boolean;
  /** What should be left after a verdict. */
  rest(): { readonly client: string; readonly smtpd: string };
}

/**
 * Creates a model.
 *
 * @param stream all that the client will send.
 */
export function createModel(stream: string, options: DialogueOptions): Model {
  /** How far the client's text was read, and how far it was processed. */
  let readTo = 0;
  let client = 0;
  /** Everything up to the next line end is discarded. */
  let inDiscarded = false;
  let smtpdText = '';
  /** How far smtpd's text was processed. */
  let smtpd = 0;
  let waitsFor: 'GREETING' | 'HELLO' | 'RESET' | 'REPLY' | '' = 'GREETING';
  let codeOfUnfinished = '';
  let lastCode = '';
  let isFirstLine = true;
  let clientHasEnded = false;
  let smtpdHasEnded = false;
  let endForwarded = false;
  let starttlsNoticed = false;
  let verdict: Verdict | '' = '';
  let errors = 0;
  let out = '';

  function ours(reply: Buffer): true {
    out += `S${reply.toString('latin1')}`;
    return true;
  }

  function end(what: Verdict): true {
    verdict = what;
    out += `=${what}`;
    return true;
  }

  function fail(): true {
    out += '!';
    ours(REPLIES.smtpdFailed);
    return end('close');
  }

  /** A command was refused, by our reply or by smtpd's. */
  function refuse(reply?: Buffer): true {
    if (reply !== undefined) ours(reply);
    errors++;
    if (errors !== options.errorLimit) return true;
    out += '!';
    ours(REPLIES.tooManyErrors);
    return end('close');
  }

  function free(): boolean {
    return waitsFor === '' && codeOfUnfinished === '';
  }

  function handleReplyLine(): boolean {
    let lineEnd = smtpdText.indexOf('\n', smtpd);
    if (lineEnd < 0) {
      if (!smtpdHasEnded || smtpd === smtpdText.length) return false;
      smtpdText += '\n';
      lineEnd = smtpdText.length - 1;
    }
    const raw = smtpdText.slice(smtpd, lineEnd + 1);
    const line = raw.replace(/\r?\n$/, '');
    smtpd = lineEnd + 1;
    const [, code = '', separator = '', text = ''] = /^([2-5][0-9]{2})(?:([ -])([\s\S]*))?$/.exec(line) ?? [];
    const sound = raw.length <= LIMIT && !/[\r\0]/.test(line) && code !== '';
    if (!sound || (codeOfUnfinished !== '' && codeOfUnfinished !== code)) return fail();
    const isLast = separator !== '-';
    if (waitsFor === 'RESET') {
      if (isLast && code < '300') {
        ours(REPLIES.readyForTls);
        end('tls');
      } else if (isLast) refuse(REPLIES.tlsUnavailable);
    } else if (waitsFor === 'HELLO' && code === '250') handleExtension(text, isLast);
    else out += `S${code}${isLast ? ' ' : '-'}${text}\r\n`;
    codeOfUnfinished = isLast ? '' : code;
    isFirstLine = isLast;
    if (!isLast) return true;
    const answersCommand = waitsFor === 'HELLO' || waitsFor === 'REPLY';
    if (waitsFor !== 'RESET') lastCode = code;
    waitsFor = '';
    if (answersCommand && code >= '400') refuse();
    return true;
  }

  function handleExtension(text: string, isLast: boolean): void {
    const isStarttls = !isFirstLine && /^\s*STARTTLS(?:[\s=]|$)/i.test(text);
    const isAuth = !isFirstLine && /^\s*AUTH(?:[\s=]|$)/i.test(text);
    if (isStarttls && !starttlsNoticed) {
      starttlsNoticed = true;
      out += '!';
    }
    if (!isStarttls && (!isAuth || options.plaintextAuth)) out += `S250-${text}\r\n`;
    if (isLast) out += 'S250 STARTTLS\r\n';
  }

  function handleSmtpdEnd(): boolean {
    if (!smtpdHasEnded) return false;
    const refused = lastCode >= '400' && !commandWaits();
    const isExpected = clientHasEnded || lastCode === '221' || lastCode === '421' || refused;
    return free() && isExpected ? end('close') : fail();
  }

  function commandWaits(): boolean {
    const lineEnd = stream.indexOf('\n', client);
    return lineEnd >= 0 && lineEnd < readTo;
  }

  function handleCommandLine(): boolean {
    if (!free()) return false;
    if (!commandWaits()) {
      if (!clientHasEnded || endForwarded) return false;
      endForwarded = true;
      out += '>(end)';
      return true;
    }
    const start = client;
    client = stream.indexOf('\n', start) + 1;
    if (inDiscarded) {
      inDiscarded = false;
      return true;
    }
    const line = stream.slice(start, client).replace(/\r?\n$/, '');
    if (client - start > LIMIT) return refuse(REPLIES.tooLong);
    if (/[\r\0]/.test(line)) return refuse(REPLIES.controls);
    const [, verb = '', argument = ''] = /^\s*(\S*)\s*([\s\S]*?)\s*$/.exec(line) ?? [];
    return handleCommand(verb.toUpperCase(), argument, line, start);
  }

  function handleCommand(verb: string, argument: string, line: string, start: number): true {
    if (verb === '') return refuse(REPLIES.noCommand);
    if (verb === 'RCPT' || verb === 'DATA') return refuse(REPLIES.mailFirst);
    if (verb === 'BDAT') {
      client += Number(/^[0-9]*/.exec(argument)?.[0]);
      return refuse(REPLIES.mailFirst);
    }
    if (verb === 'STARTTLS') return handleStarttls(argument);
    if (verb === 'AUTH' && !options.plaintextAuth) return refuse(REPLIES.tlsBeforeAuth);
    if (verb === 'MAIL' && options.requireTls) return refuse(REPLIES.tlsFirst);
    if (HTTP.test(verb)) {
      client = start;
      out += '!';
      ours(REPLIES.notHttp);
      return end('close');
    }
    if (verb === 'AUTH' || verb === 'MAIL' || (verb === 'HELO' && !options.requireTls)) {
      client = start;
      return end('plaintext');
    }
    return forward(line, verb === 'EHLO' || verb === 'LHLO' ? 'HELLO' : 'REPLY');
  }

  function handleStarttls(argument: string): true {
    if (argument !== '') return refuse(REPLIES.noParameter);
    if (readTo === client) return forward('RSET', 'RESET');
    inDiscarded = stream[readTo - 1] !== '\n';
    client = readTo;
    return refuse(REPLIES.waitForTls);
  }

  function forward(line: string, what: 'HELLO' | 'RESET' | 'REPLY'): true {
    waitsFor = what;
    out += `>${line}\r\n`;
    return true;
  }

  return {
    read: (octets) => {
      readTo += octets;
    },
    smtpdSent: (text) => {
      smtpdText += text;
    },
    clientEnded: () => {
      clientHasEnded = true;
    },
    smtpdEnded: () => {
      smtpdHasEnded = true;
    },
    timedOut: () => {
      if (verdict !== '') return;
      if (!free() || lastCode !== '221') ours(REPLIES.tooSlow);
      end('close');
    },
    settle: () => {
      while (verdict === '' && (handleReplyLine() || handleSmtpdEnd() || handleCommandLine()));
      const now = out;
      out = '';
      return now;
    },
    wantsClient: () => verdict === '' && free() && !clientHasEnded,
    rest: () => ({ client: stream.slice(client, readTo), smtpd: smtpdText.slice(smtpd) }),
  };
}
