/**
 * Transcripts of a receiver (lib/maildir/protocol/receiver.ts):
 *
 *     # A message                               the title; further # lines are comments
 *     -- size 100                               the size limit; 0 without this line
 *     C: DATA                                   sent by the client
 *     S: 354 Send the message                   expected by the client; a prefix of the line is enough
 *     = open <a@b> <c@d>                        expected: a delivery starts; sender and recipients
 *     -- opened                                 it has started
 *     C: hello
 *     C: .
 *     | hello                                   expected: written to the message
 *     = store
 *     -- stored                                 or: -- failed
 *     S: 250
 *     -- client ends, -- timeout, -- stopping
 *     = discard
 *     = close aborted
 *
 * A line of the client ends with CRLF, and a written one with LF, unless it ends with a single backslash here.
 * Escapes: `\r \n \0 \\ \xNN`, and `{A*3000}` for 3000 times A. Blank lines separate scenarios. Consecutive
 * lines of the client are one packet.
 */

import { createReceiver, type Receiver, type ReceiverStep } from '../../lib/maildir/protocol/receiver.ts';

/** A scenario. */
export interface Transcript {
  readonly title: string;
  readonly sizeLimit: number;
  readonly lines: readonly string[];
}

/** Reads the scenarios of a file. */
export function parseTranscripts(text: string): Transcript[] {
  const scenarios = text.split(/\n\s*\n/).map((scenario) => scenario.trim().split('\n'));
  return scenarios.map((lines) => ({
    title: lines[0]?.slice(1).trim() ?? '',
    sizeLimit: Number(lines.find((line) => line.startsWith('-- size '))?.slice('-- size '.length) ?? 0),
    lines: lines.filter((line) => !/^(#|-- size )/.test(line)),
  }));
}

/**
 * Drives a receiver with the input of a transcript.
 *
 * @param size of the pieces in which the client's bytes arrive, in octets.
 * @returns the input lines with the output lines between them. Writes are joined, and omitted when they are
 * discarded, because how much is written before depends on the size of the pieces.
 */
export function replay(transcript: Transcript, size: number): string[] {
  const receiver = createReceiver({ host: 'mx.example', sizeLimit: transcript.sizeLimit });
  const seen: string[] = [];
  let written = '';

  function take(step: ReceiverStep): void {
    if (step.type === 'write') written += step.bytes.toString('latin1');
    else if (step.type === 'discard') written = '';
    if (step.type === 'write' || step.type === 'skip') return;
    if (written !== '') seen.push(...formatWritten(written));
    written = '';
    seen.push(...formatStep(step));
  }

  function settle(): void {
    for (let step = receiver.next(); step !== undefined; step = receiver.next()) take(step);
  }

  settle();
  for (const { lines, bytes } of inputsOf(transcript)) {
    seen.push(...lines);
    if (bytes === undefined) event(receiver, lines[0] ?? '');
    else {
      for (let at = 0; at < bytes.length; at += size) {
        // The receiver must have copied the bytes: the next read overwrites them.
        const piece = Buffer.from(bytes.subarray(at, at + size));
        receiver.fromClient(piece);
        piece.fill('!');
        settle();
      }
    }
    settle();
  }
  return seen;
}

/** The packets of the client and the events, each with its lines. */
function inputsOf(transcript: Transcript): { lines: string[]; bytes?: Buffer }[] {
  const inputs: { lines: string[]; bytes?: Buffer }[] = [];
  let packet: string[] = [];
  for (const line of [...transcript.lines, '']) {
    if (line.startsWith('C:')) packet.push(line);
    else if (packet.length > 0) {
      const sent = packet.map((one) => readEscapes(one.slice('C: '.length), '\r\n')).join('');
      inputs.push({ lines: packet, bytes: Buffer.from(sent, 'latin1') });
      packet = [];
    }
    if (line.startsWith('-- ')) inputs.push({ lines: [line] });
  }
  return inputs;
}

function event(receiver: Receiver, line: string): void {
  const events: Readonly<Record<string, () => void>> = {
    '-- opened': receiver.opened,
    '-- stored': receiver.stored,
    '-- failed': receiver.failed,
    '-- client ends': receiver.clientEnded,
    '-- timeout': receiver.timedOut,
    '-- stopping': receiver.stopping,
  };
  const act = events[line];
  if (act === undefined) throw new Error(`no such event: ${line}`);
  act();
}

function formatStep(step: ReceiverStep): string[] {
  switch (step.type) {
    case 'reply':
      return step.bytes
        .toString('latin1')
        .split('\r\n')
        .slice(0, -1)
        .map((line) => `S: ${line}`);
    case 'open':
      return [
        `= open ${[step.envelope.sender, ...step.envelope.recipients].map((one) => `<${one}>`).join(' ')}`,
      ];
    case 'close':
      return [`= close ${step.reason}`];
    default:
      return [`= ${step.type}`];
  }
}

function formatWritten(text: string): string[] {
  const lines = text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
  return lines.map((line) =>
    `| ${line.endsWith('\n') ? writeEscapes(line.slice(0, -1)) : `${writeEscapes(line)}\\`}`.trimEnd(),
  );
}

function writeEscapes(text: string): string {
  return text
    .replaceAll('\\', '\\\\')
    .replace(/[^ -~]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

const LETTERS: Readonly<Record<string, string>> = { r: '\r', n: '\n', '0': '\0' };

function readEscapes(text: string, ending: string): string {
  const isUnended = /(?:^|[^\\])\\$/.test(text);
  const plain = (isUnended ? text.slice(0, -1) : text).replace(
    /\{(.)\*(\d+)\}|\\x([0-9a-f]{2})|\\(.)/g,
    (_, unit?: string, count?: string, hex?: string, letter?: string) => {
      if (unit !== undefined) return unit.repeat(Number(count));
      if (hex !== undefined) return String.fromCharCode(Number.parseInt(hex, 16));
      return LETTERS[letter ?? ''] ?? letter ?? '';
    },
  );
  return isUnended ? plain : plain + ending;
}
