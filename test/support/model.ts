/**
 * What the dialogue ought to do, written a second time and in another way, to hold the first against it.
 *
 * The model keeps all that either side ever said as one text and never cuts it up: a command or a reply is
 * a place in it. That takes memory without bound and time without care, and so has none of the traps of
 * lib/smtp: no reader of lines, no buffer, nothing to drop or to skip. It shares no code with lib/smtp but
 * the wording of our own replies; which of them is due is decided here.
 */

import type { DialogueOptions, Verdict } from '../../lib/smtp/dialogue.ts';
import { REPLIES } from '../../lib/smtp/reply.ts';

/** The longest line, with its stopping. */
const LIMIT = 12288;

const HTTP = /^(?:CONNECT|DELETE|GET|HEAD|OPTIONS|PATCH|POST|PRI|PUT|TRACE)$/;

/** The model of one connection. */
export interface Model {
  /** The client's next octets were read, so many of them. */
  read(octets: number): void;
  /** smtpd said something. */
  said(text: string): void;
  clientEnded(): void;
  smtpdEnded(): void;
  timedOut(): void;
  /**
   * All that ought to happen now, up to where nothing more can: `S` and text for the client, `>` and text
   * for smtpd, `(end)`, `!` for a notice, `=` and a verdict.
   */
  settle(): string;
  /** Whether the client ought to be read now. */
  listens(): boolean;
  /** What ought to be left after a verdict. */
  rest(): { readonly client: string; readonly smtpd: string };
}

/**
 * Makes a model.
 *
 * @param stream all that the client will ever say.
 */
export function createModel(stream: string, options: DialogueOptions): Model {
  /** How far the client was read, and how far it was understood. */
  let readTo = 0;
  let client = 0;
  /** Everything up to the next line end does not count. */
  let inDiscarded = false;
  let smtpdText = '';
  /** How far smtpd was understood. */
  let smtpd = 0;
  let waitsFor: 'GREETING' | 'HELLO' | 'RESET' | 'REPLY' | '' = 'GREETING';
  let codeOfUnfinished = '';
  let lastCode = '';
  let isFirstLine = true;
  let clientIsGone = false;
  let smtpdIsGone = false;
  let toldSmtpd = false;
  let saidStarttls = false;
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

  /** A command was refused, with the reply that is given or that was heard. */
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

  function hearSmtpd(): boolean {
    let lineEnd = smtpdText.indexOf('\n', smtpd);
    if (lineEnd < 0) {
      if (!smtpdIsGone || smtpd === smtpdText.length) return false;
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
    } else if (waitsFor === 'HELLO' && code === '250') hearExtension(text, isLast);
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

  function hearExtension(text: string, isLast: boolean): void {
    const isStarttls = !isFirstLine && /^\s*STARTTLS(?:[\s=]|$)/i.test(text);
    const isAuth = !isFirstLine && /^\s*AUTH(?:[\s=]|$)/i.test(text);
    if (isStarttls && !saidStarttls) {
      saidStarttls = true;
      out += '!';
    }
    if (!isStarttls && (!isAuth || options.plaintextAuth)) out += `S250-${text}\r\n`;
    if (isLast) out += 'S250 STARTTLS\r\n';
  }

  function hearSmtpdEnd(): boolean {
    if (!smtpdIsGone) return false;
    const refused = lastCode >= '400' && !commandWaits();
    const isNoSurprise = clientIsGone || lastCode === '221' || lastCode === '421' || refused;
    return free() && isNoSurprise ? end('close') : fail();
  }

  function commandWaits(): boolean {
    const lineEnd = stream.indexOf('\n', client);
    return lineEnd >= 0 && lineEnd < readTo;
  }

  function hearClient(): boolean {
    if (!free()) return false;
    if (!commandWaits()) {
      if (!clientIsGone || toldSmtpd) return false;
      toldSmtpd = true;
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
    return obey(verb.toUpperCase(), argument, line, start);
  }

  function obey(verb: string, argument: string, line: string, start: number): true {
    if (verb === '') return refuse(REPLIES.noCommand);
    if (verb === 'RCPT' || verb === 'DATA') return refuse(REPLIES.mailFirst);
    if (verb === 'BDAT') {
      client += Number(/^[0-9]*/.exec(argument)?.[0]);
      return refuse(REPLIES.mailFirst);
    }
    if (verb === 'STARTTLS') return obeyStarttls(argument);
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
    return ask(line, verb === 'EHLO' || verb === 'LHLO' ? 'HELLO' : 'REPLY');
  }

  function obeyStarttls(argument: string): true {
    if (argument !== '') return refuse(REPLIES.noParameter);
    if (readTo === client) return ask('RSET', 'RESET');
    inDiscarded = stream[readTo - 1] !== '\n';
    client = readTo;
    return refuse(REPLIES.waitForTls);
  }

  function ask(line: string, what: 'HELLO' | 'RESET' | 'REPLY'): true {
    waitsFor = what;
    out += `>${line}\r\n`;
    return true;
  }

  return {
    read: (octets) => {
      readTo += octets;
    },
    said: (text) => {
      smtpdText += text;
    },
    clientEnded: () => {
      clientIsGone = true;
    },
    smtpdEnded: () => {
      smtpdIsGone = true;
    },
    timedOut: () => {
      if (verdict !== '') return;
      if (!free() || lastCode !== '221') ours(REPLIES.tooSlow);
      end('close');
    },
    settle: () => {
      while (verdict === '' && (hearSmtpd() || hearSmtpdEnd() || hearClient()));
      const now = out;
      out = '';
      return now;
    },
    listens: () => verdict === '' && free() && !clientIsGone,
    rest: () => ({ client: stream.slice(client, readTo), smtpd: smtpdText.slice(smtpd) }),
  };
}
