/**
 * Transcripts: a dialogue, for example, or a prelude or an opening, in a form that a person can read, write, and attach to a bug report.
 *
 *     # An unknown command gets smtpd's reply                the title; more # lines are comments
 *     -- options require-tls plaintext-auth error-limit=3    the options; none and 100 are the default
 *     < 220 host ready                                       sent by smtpd
 *     S: 220 host ready                                      expected by the client
 *     C: NOOP                                                sent by the client
 *     > NOOP                                                 expected by smtpd
 *     < 250 ok
 *     S: 250 ok
 *     -- client ends                                         the client will send no more
 *     > (end)                                                smtpd's standard input must be closed
 *     -- smtpd ends                                          or could not be started
 *     ! smtpd offers STARTTLS itself                         one line on stderr
 *     ! [smtpd-end] smtpd exited mid-dialogue                the same, and what it is about
 *     -- timeout                                             the idle timeout has passed
 *     = close                                                the verdict: plaintext, tls or close
 *     = left from client: MAIL FROM:<a@b>                    read and not consumed: where the relay begins
 *     = left from smtpd: 421 bye
 *     = unread: \x16\x03\x01\                                sent by the client and never read
 *
 * The two last kinds stand at the end, with or without a verdict. A blank line separates scenarios.
 *
 * In a prelude, lines of smtpd are the introduction: its greeting, its replies to EHLO and to HELO. Without them it is
 * a short one (see replay.ts). Besides those for the client there are
 *
 *     -- hello: EHLO before.example                          the last EHLO or HELO before it
 *     = smtpd-needed EHLO client.example                     with the last EHLO or HELO, if any
 *     -- refuse 451 4.3.2 no room                            the command that needs smtpd gets this reply
 *     -- drop                                                it gets no reply
 *     = end
 *
 * In an opening, besides those for smtpd:
 *
 *     -- hello: EHLO client.example                          a command that introduces the client; repeatable
 *     = ready: 220 host ready                                the outcome, with the greeting and the other replies
 *     = refused: 554 no                                      with the refusal
 *     = broken: invalid SMTP reply                           or `= broken`
 *
 * In an envelope (see replay-envelope.ts for what happens to which command):
 *
 *     -- lmtp                                                it is LMTP, not SMTP, from the start
 *     -- greeting                                            the greeting of smtpd is still to come
 *     -- strict newlines                                     messages with a bare CR or LF are refused
 *     -- received                                            each message gets a Received field, of 1970
 *     -- TLS                                                 TLS has started
 *     -- resume                                              the command that is held is decided on again
 *     = invalid-reply                                        smtpd has sent what is not a reply
 *     = smtpd-closing                                           smtpd has sent a refusal by itself
 *
 * In a routing (see replay-routing.ts for which address leads where):
 *
 *     -- by recipient                                        the destination depends on the recipient
 *     -- one destination                                     all mail has the same
 *     = connect a.example EHLO client                        with the last EHLO or HELO, if any
 *     -- connected: PIPELINING, SIZE 9                       it is there, and offers this; or `-- refuse 451 no`
 *     = disconnect
 *
 * Bytes. A line ends with CRLF, unless it ends with a single backslash here. Escapes: `\r \n \t \0 \\ \{ \xNN`.
 * `{A*20000}` is twenty thousand times A; the repeated text may be longer and may contain escapes. A space
 * at the end of a line is written `\x20`.
 *
 * Packets. Consecutive lines of one side are one packet. A line of `--` alone separates two packets.
 *
 * `-- repeat 17` ... `-- end repeat` repeats the lines between, so many times.
 *
 * Splits. Every transcript is also replayed with its packets cut into pieces, and must give the same result
 * (see replay.ts). The exceptions are marked:
 * `-- behind STARTTLS: word` where a cut after STARTTLS changes the reply, as it should. smtpd must
 * never receive the word, wherever the cut is.
 * `-- unsplit: why` where a cut makes it a different dialogue.
 *
 * `-- todo: why` marks a scenario that shows a known defect and fails until that is fixed.
 */

import type { DialogueOptions, Step } from '../../lib/smtp/dialogue.ts';
import type { EnvelopeStep } from '../../lib/smtp/envelope.ts';
import type { PreludeStep } from '../../lib/smtp/prelude.ts';

/** One entry of a transcript: an input, or a step that came out. */
export type Entry =
  | Step
  | PreludeStep
  | Exclude<EnvelopeStep, { readonly bytes: Uint8Array }>
  | { readonly type: 'ready' | 'refused'; readonly bytes: Buffer }
  | { readonly type: 'broken'; readonly why: string | undefined }
  | { readonly type: 'client-sends' | 'smtpd-sends' | 'refuse'; readonly bytes: Buffer }
  | {
      readonly type:
        | 'client-ends'
        | 'smtpd-ends'
        | 'timeout'
        | 'drop'
        | 'resume'
        | 'lmtp'
        | 'greeting'
        | 'strict-newlines'
        | 'received'
        | 'tls'
        | 'by-recipient'
        | 'one-destination'
        | 'disconnect';
    }
  | { readonly type: 'connect'; readonly key: string; readonly hello: string | undefined }
  | { readonly type: 'connected'; readonly offer: string }
  | { readonly type: 'left-client' | 'left-smtpd' | 'unread'; readonly bytes: Buffer };

/** A scenario as it was written. */
export interface Transcript {
  readonly title: string;
  readonly options: DialogueOptions;
  /** EHLO and HELO lines, without line ending: those of an opening, or the one before a prelude. */
  readonly hellos: readonly string[];
  readonly entries: readonly Entry[];
  /** The word that smtpd must not receive wherever the packets are cut. */
  readonly behindStarttls: string | undefined;
  /** Why the packets are not to be cut. */
  readonly unsplit: string | undefined;
  /** Why the scenario fails for now. */
  readonly todo: string | undefined;
}

/** What each kind of entry that holds bytes begins with. */
const PREFIXES = {
  'client-sends': 'C:',
  'to-client': 'S:',
  'smtpd-sends': '<',
  'to-smtpd': '>',
  'left-client': '= left from client:',
  'left-smtpd': '= left from smtpd:',
  unread: '= unread:',
  refuse: '-- refuse',
  ready: '= ready:',
  refused: '= refused:',
} as const;

type BytesType = keyof typeof PREFIXES;
const BYTES_TYPES = Object.keys(PREFIXES) as BytesType[];

/** The entries that are one line without more. */
const LINES: ReadonlyMap<string, Entry> = new Map<string, Entry>([
  ['-- client ends', { type: 'client-ends' }],
  ['-- smtpd ends', { type: 'smtpd-ends' }],
  ['-- timeout', { type: 'timeout' }],
  ['-- drop', { type: 'drop' }],
  ['-- resume', { type: 'resume' }],
  ['-- lmtp', { type: 'lmtp' }],
  ['-- greeting', { type: 'greeting' }],
  ['-- strict newlines', { type: 'strict-newlines' }],
  ['-- received', { type: 'received' }],
  ['-- TLS', { type: 'tls' }],
  ['-- by recipient', { type: 'by-recipient' }],
  ['-- one destination', { type: 'one-destination' }],
  ['= disconnect', { type: 'disconnect' }],
  ['= invalid-reply', { type: 'invalid-reply' }],
  ['= smtpd-closing', { type: 'smtpd-closing' }],
  ['> (end)', { type: 'end-smtpd' }],
  ['= plaintext', { type: 'verdict', verdict: 'plaintext' }],
  ['= tls', { type: 'verdict', verdict: 'tls' }],
  ['= close', { type: 'verdict', verdict: 'close' }],
  ['= smtpd-needed', { type: 'smtpd-needed', hello: undefined }],
  ['= end', { type: 'end' }],
  ['= broken', { type: 'broken', why: undefined }],
]);

const TOPICS = ['smtpd-end', 'error-limit', 'http'] as const;

/** A run of one character that is longer than this is written as a repetition. */
const LONG_RUN = 40;

/**
 * Reads the scenarios of a file.
 *
 * @param text the file, in ASCII.
 * @throws Error for a line that is none of the above, with its number in its scenario.
 */
export function parseTranscripts(text: string): Transcript[] {
  return text
    .split(/\n\s*\n/)
    .map((scenario) => scenario.trim())
    .filter((scenario) => scenario !== '')
    .map(parseScenario);
}

function parseScenario(text: string): Transcript {
  const lines = expandRepeats(text.split('\n'));
  const title = lines
    .find((line) => line.startsWith('#'))
    ?.slice(1)
    .trim();
  if (title === undefined) throw new Error(`no title: ${text.slice(0, 60)}`);
  const entries: Entry[] = [];
  const directives = new Map<string, string>();
  const hellos: string[] = [];
  let joined = false;
  for (const [index, line] of lines.entries()) {
    if (line.startsWith('#')) continue;
    const hello = /^-- hello: (.*)$/.exec(line)?.[1];
    if (hello !== undefined) {
      hellos.push(readEscapes(hello));
      continue;
    }
    const directive = /^-- (options|behind STARTTLS:|unsplit:|todo:) *(.*)$/.exec(line);
    if (directive !== null) {
      directives.set(directive[1] ?? '', directive[2] ?? '');
      continue;
    }
    if (line === '--') {
      joined = false;
      continue;
    }
    const entry = parseEntry(line);
    if (entry === undefined) throw new Error(`${title}: line ${index + 1} is malformed: ${line}`);
    addEntry(entries, entry, joined);
    joined = true;
  }
  const options = (directives.get('options') ?? '').split(' ');
  return {
    title,
    options: {
      requireTls: options.includes('require-tls'),
      plaintextAuth: options.includes('plaintext-auth'),
      errorLimit: Number(/\berror-limit=(\d+)/.exec(directives.get('options') ?? '')?.[1] ?? 100),
    },
    hellos,
    entries,
    behindStarttls: directives.get('behind STARTTLS:'),
    unsplit: directives.get('unsplit:'),
    todo: directives.get('todo:'),
  };
}

function expandRepeats(lines: readonly string[]): string[] {
  const start = lines.findIndex((line) => line.startsWith('-- repeat '));
  if (start < 0) return [...lines];
  const end = lines.indexOf('-- end repeat', start);
  if (end < 0) throw new Error('-- repeat without -- end repeat');
  const times = Number(lines[start]?.slice('-- repeat '.length));
  const middle: string[] = [];
  for (let count = 0; count < times; count++) middle.push(...lines.slice(start + 1, end));
  return [...lines.slice(0, start), ...middle, ...expandRepeats(lines.slice(end + 1))];
}

function parseEntry(line: string): Entry | undefined {
  const known = LINES.get(line);
  if (known !== undefined) return known;
  const [, topic, notice = ''] = /^! \[([a-z-]+)\] (.*)$/.exec(line) ?? [];
  const about = TOPICS.find((candidate) => candidate === topic);
  if (about !== undefined) return { type: 'notice', text: notice, about };
  const [, kind, rest = ''] = /^= (smtpd-needed|broken:) (.*)$/.exec(line) ?? [];
  if (kind === 'smtpd-needed') return { type: 'smtpd-needed', hello: readEscapes(rest) };
  const [, key, hello] = /^= connect (\S+)(?: (.*))?$/.exec(line) ?? [];
  if (key !== undefined) return { type: 'connect', key, hello };
  const [, offer] = /^-- connected: *(.*)$/.exec(line) ?? [];
  if (offer !== undefined) return { type: 'connected', offer };
  if (kind === 'broken:') return { type: 'broken', why: rest };
  if (line.startsWith('! ')) return { type: 'notice', text: line.slice(2) };
  const type = BYTES_TYPES.find((candidate) => line.startsWith(PREFIXES[candidate]));
  if (type === undefined) return undefined;
  return { type, bytes: parseBytes(line.slice(PREFIXES[type].length).replace(/^ /, '')) };
}

function parseBytes(text: string): Buffer {
  const unended = /(?:^|[^\\])(?:\\\\)*\\$/.test(text);
  const plain = readEscapes(unended ? text.slice(0, -1) : text);
  return Buffer.from(unended ? plain : `${plain}\r\n`, 'latin1');
}

const ESCAPES = /\{((?:\\.|[^\\{}])*)\*(\d+)\}|\\x([0-9a-fA-F]{2})|\\(.)/g;
const LETTERS: Readonly<Record<string, string>> = { r: '\r', n: '\n', t: '\t', '0': '\0' };

function readEscapes(text: string): string {
  return text.replace(ESCAPES, (_, unit?: string, count?: string, hex?: string, letter?: string) => {
    if (unit !== undefined) return readEscapes(unit).repeat(Number(count));
    if (hex !== undefined) return String.fromCharCode(Number.parseInt(hex, 16));
    return LETTERS[letter ?? ''] ?? letter ?? '';
  });
}

/** Adds an entry; bytes of the same kind become one entry, unless two packets are to stay apart. */
function addEntry(entries: Entry[], entry: Entry, join: boolean): void {
  const before = entries.at(-1);
  if (join && before !== undefined && 'bytes' in before && 'bytes' in entry && before.type === entry.type) {
    entries[entries.length - 1] = { type: entry.type, bytes: Buffer.concat([before.bytes, entry.bytes]) };
  } else entries.push(entry);
}

/**
 * Formats entries as `parseTranscripts` reads them. Consecutive steps that send to the same side look the same as
 * one step.
 */
export function formatEntries(entries: readonly Entry[]): string {
  const lines: string[] = [];
  let before: Entry | undefined;
  for (const entry of entries) {
    const isPacket = entry.type === 'client-sends' || entry.type === 'smtpd-sends';
    if (isPacket && before?.type === entry.type) lines.push('--');
    lines.push(...formatEntry(entry));
    before = entry;
  }
  return `${lines.join('\n')}\n`;
}

function formatEntry(entry: Entry): string[] {
  switch (entry.type) {
    case 'notice':
      return [`! ${entry.about === undefined ? '' : `[${entry.about}] `}${entry.text}`];
    case 'verdict':
      return [`= ${entry.verdict}`];
    case 'smtpd-needed':
      return [`= smtpd-needed ${writeEscapes(entry.hello ?? '')}`.trimEnd()];
    case 'connect':
      return [`= connect ${entry.key} ${entry.hello ?? ''}`.trimEnd()];
    case 'connected':
      return [`-- connected: ${entry.offer}`.trimEnd()];
    case 'broken':
      return [entry.why === undefined ? '= broken' : `= broken: ${entry.why}`];
  }
  if ('bytes' in entry) {
    return formatBytes(entry.bytes).map((line) => `${PREFIXES[entry.type]} ${line}`.trimEnd());
  }
  return [...LINES].filter(([, { type }]) => type === entry.type).map(([line]) => line);
}

function formatBytes(bytes: Buffer): string[] {
  const lines = bytes.toString('latin1').match(/[^\n]*\n|[^\n]+$/g) ?? [];
  return lines.map((line) =>
    line.endsWith('\r\n') ? writeEscapes(line.slice(0, -2)) : `${writeEscapes(line)}\\`,
  );
}

function writeEscapes(text: string): string {
  return text
    .replace(/[\\{]/g, '\\$&')
    .replace(/\r/g, '\\r')
    .replace(/\n/g, '\\n')
    .replace(/\t/g, '\\t')
    .replace(/[^\x20-\x7e]| $/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`)
    .replace(/([^\\{}])\1+/g, (run: string, c: string) =>
      run.length > LONG_RUN ? `{${c}*${run.length}}` : run,
    );
}
