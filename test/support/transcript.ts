/**
 * Transcripts: a dialogue in a form that a person can read, write, and attach to a bug report.
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

/** One entry of a transcript: an input, or a step that came out. */
export type Entry =
  | Step
  | { readonly type: 'client-sends' | 'smtpd-sends'; readonly bytes: Buffer }
  | { readonly type: 'client-ends' | 'smtpd-ends' | 'timeout' }
  | { readonly type: 'left-client' | 'left-smtpd' | 'unread'; readonly bytes: Buffer };

/** A scenario as it was written. */
export interface Transcript {
  readonly title: string;
  readonly options: DialogueOptions;
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
} as const;

type BytesType = keyof typeof PREFIXES;
const BYTES_TYPES = Object.keys(PREFIXES) as BytesType[];

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
  let joined = false;
  for (const [index, line] of lines.entries()) {
    if (line.startsWith('#')) continue;
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
  switch (line) {
    case '-- client ends':
      return { type: 'client-ends' };
    case '-- smtpd ends':
      return { type: 'smtpd-ends' };
    case '-- timeout':
      return { type: 'timeout' };
    case '> (end)':
      return { type: 'end-smtpd' };
    case '= plaintext':
      return { type: 'verdict', verdict: 'plaintext' };
    case '= tls':
      return { type: 'verdict', verdict: 'tls' };
    case '= close':
      return { type: 'verdict', verdict: 'close' };
  }
  const about = /^! \[(smtpd-end|error-limit)\] (.*)$/.exec(line);
  if (about !== null) {
    const [, topic, text = ''] = about;
    return { type: 'notice', text, about: topic === 'smtpd-end' ? topic : 'error-limit' };
  }
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
    case 'client-ends':
      return ['-- client ends'];
    case 'timeout':
      return ['-- timeout'];
    case 'smtpd-ends':
      return ['-- smtpd ends'];
    case 'end-smtpd':
      return ['> (end)'];
    case 'notice':
      return [`! ${entry.about === undefined ? '' : `[${entry.about}] `}${entry.text}`];
    case 'verdict':
      return [`= ${entry.verdict}`];
    default:
      return formatBytes(entry.bytes).map((line) => `${PREFIXES[entry.type]} ${line}`.trimEnd());
  }
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
