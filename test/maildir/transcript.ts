/**
 * Transcripts of a reception (lib/maildir/protocol/receiver.ts):
 *
 *     # A message                               the title; more # lines explain
 *     -- size 100                               the limit; 0, for none, without this line
 *     C: DATA                                   the client says
 *     S: 354 Please send the message            the client must hear; what it begins with is enough
 *     = open <a@b> <c@d>                        a message must be begun: sender and recipients
 *     -- opened                                 and there is room for it
 *     C: hello
 *     C: .
 *     | hello                                   must be written to it
 *     = store
 *     -- stored                                 or: -- failed
 *     S: 250
 *     -- client ends, -- timeout, -- terminated
 *     = discard
 *     = close cut
 *
 * A line of the client ends with CRLF, and a written one with LF, unless a lone backslash ends it here.
 * Escapes: `\r \n \0 \\ \xNN`, and `{A*3000}` for three thousand times A. Blank lines part scenarios. What
 * the client says and what happens next to each other is one packet.
 */

import { createReception, type Reception, type Step } from '../../lib/maildir/protocol/receiver.ts';

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
 * Plays the driver to the inputs of a transcript.
 *
 * @param size how long the pieces are that the client's bytes come in.
 * @returns the inputs, and among them what came out. What was written is joined, and left out when it was
 * discarded, because how much of that there is depends on the size of the pieces.
 */
export function replay(transcript: Transcript, size: number): string[] {
  const reception = createReception({ host: 'mx.example', sizeLimit: transcript.sizeLimit });
  const seen: string[] = [];
  let written = '';

  function take(step: Step): void {
    if (step.type === 'write') written += step.bytes.toString('latin1');
    else if (step.type === 'discard') written = '';
    if (step.type === 'write' || step.type === 'skip') return;
    if (written !== '') seen.push(...formatWritten(written));
    written = '';
    seen.push(...formatStep(step));
  }

  function settle(): void {
    for (let step = reception.next(); step !== undefined; step = reception.next()) take(step);
  }

  settle();
  for (const { lines, bytes } of inputsOf(transcript)) {
    seen.push(...lines);
    if (bytes === undefined) event(reception, lines[0] ?? '');
    else {
      for (let at = 0; at < bytes.length; at += size) {
        // The reception must not keep the bytes: they are overwritten, as by the next read.
        const piece = Buffer.from(bytes.subarray(at, at + size));
        reception.fromClient(piece);
        piece.fill('!');
        settle();
      }
    }
    settle();
  }
  return seen;
}

/** Packets of the client, and events; with the lines that they stand in. */
function inputsOf(transcript: Transcript): { lines: string[]; bytes?: Buffer }[] {
  const inputs: { lines: string[]; bytes?: Buffer }[] = [];
  let packet: string[] = [];
  for (const line of [...transcript.lines, '']) {
    if (line.startsWith('C:')) packet.push(line);
    else if (packet.length > 0) {
      const said = packet.map((one) => readEscapes(one.slice('C: '.length), '\r\n')).join('');
      inputs.push({ lines: packet, bytes: Buffer.from(said, 'latin1') });
      packet = [];
    }
    if (line.startsWith('-- ')) inputs.push({ lines: [line] });
  }
  return inputs;
}

function event(reception: Reception, line: string): void {
  const events: Readonly<Record<string, () => void>> = {
    '-- opened': reception.opened,
    '-- stored': reception.stored,
    '-- failed': reception.failed,
    '-- client ends': reception.clientEnded,
    '-- timeout': reception.timedOut,
    '-- terminated': reception.terminated,
  };
  const act = events[line];
  if (act === undefined) throw new Error(`no such event: ${line}`);
  act();
}

function formatStep(step: Step): string[] {
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
      return [`= close ${step.cause}`];
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
