/**
 * What the opening should do, implemented a second time in another way: see model.ts. It shares no code with lib/smtp.
 */

/** The longest line and the longest reply, with their line endings. */
const LINE_LIMIT = 12288;
const REPLY_LIMIT = 65536;

/** The model of one opening. */
export interface OpeningModel {
  /** This many more octets of smtpd were read. */
  read(octets: number): void;
  smtpdEnded(): void;
  /**
   * All that should happen now: `>` and a line for smtpd, `=ready`, `=refused` or `=broken`, with the lines of all
   * replies, of the refusal, or with the reason.
   */
  settle(): string;
  /** What was read behind the last reply. */
  rest(): string;
}

/**
 * Creates a model.
 *
 * @param stream all that smtpd will send.
 */
export function createOpeningModel(stream: string, hellos: readonly string[]): OpeningModel {
  let readTo = 0;
  /** Where the current reply begins. */
  let start = 0;
  let hasEnded = false;
  let isOver = false;
  let awaited = 0;
  let all = '';
  let out = '';

  function end(outcome: string): void {
    isOver = true;
    out += `=${outcome}`;
  }

  /** The reply at `start`, its lines in canonical form; undefined when it is incomplete or broken. */
  function reply(): string | undefined {
    let text = '';
    for (let at = start; ; ) {
      const next = stream.indexOf('\n', at) + 1;
      const isComplete = next > 0 && next <= readTo;
      if ((isComplete ? next : readTo) - start > REPLY_LIMIT) return void end('broken SMTP reply too long');
      if (!isComplete) return void (hasEnded && end('broken undefined'));
      const line = stream.slice(at, next).replace(/\r?\n$/, '');
      const isSound = /^[2-5][0-9][0-9]([ -][^\r\0]*)?$/.test(line) && !line.includes('\n');
      const isSame = text === '' || text.slice(0, 3) === line.slice(0, 3);
      if (!isSound || !isSame || next - at > LINE_LIMIT) return void end('broken invalid SMTP reply');
      text += `${line.length === 3 ? `${line} ` : line}\n`;
      at = next;
      if (line[3] === '-') continue;
      start = next;
      return text;
    }
  }

  return {
    read: (octets) => {
      readTo += octets;
    },
    smtpdEnded: () => {
      hasEnded = true;
    },
    settle: () => {
      while (!isOver) {
        const text = reply();
        if (text === undefined) break;
        all += text;
        const hello = hellos[awaited++];
        if (text[0] !== '2' && (awaited === 1 || hello === undefined)) end(`refused ${text}`);
        else if (hello === undefined) end(`ready ${all}`);
        else out += `>${hello}\r\n`;
      }
      const now = out;
      out = '';
      return now;
    },
    rest: () => stream.slice(start, readTo),
  };
}
