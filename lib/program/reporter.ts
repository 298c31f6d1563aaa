import { fstatSync, writeSync } from 'node:fs';

/** How severe a message is. */
export type Level = 'fatal' | 'warning' | 'info' | 'debug';

/** Reports events on stderr, one line each: `program: level: what: why`. */
export interface Reporter {
  /** An error that ends the program, or its only session. Reported at every level. */
  fatal(text: string): void;
  /** An error or an anomaly; the session continues or ends gracefully. Level 1. */
  warning(text: string): void;
  /** Information. Level 2. */
  info(text: string): void;
}

/**
 * Makes the reporter of a program.
 *
 * @param program the name at the start of each line.
 * @param level 0 for fatal errors only, 1 to add warnings, 2 and above for everything.
 */
export function createReporter(program: string, level: number): Reporter {
  return {
    fatal: (text) => writeMessage(program, 'fatal', text),
    warning: (text) => {
      if (level >= 1) writeMessage(program, 'warning', text);
    },
    info: (text) => {
      if (level >= 2) writeMessage(program, 'info', text);
    },
  };
}

function writeMessage(program: string, level: Level, text: string): void {
  writeLine(printable(`${program}: ${level}: ${text}`), level);
}

/**
 * Escapes a text for one line of a log: everything except printable ASCII becomes `\xNN` or `\uNNNN`, and a
 * backslash is doubled. Texts may contain data from untrusted sources, such as names in certificates.
 */
export function printable(text: string): string {
  return text.replace(/[^ -~]|\\/g, (char) => {
    if (char === '\\') return '\\\\';
    const code = char.charCodeAt(0).toString(16);
    return code.length > 2 ? `\\u${code.padStart(4, '0')}` : `\\x${code.padStart(2, '0')}`;
  });
}

/** The priorities of syslog, as sd-daemon(3) has them. */
const PRIORITIES: Readonly<Record<Level, number>> = { fatal: 3, warning: 4, info: 6, debug: 7 };

/**
 * The longest line, in octets, with its end: PIPE_BUF of Linux. A longer one may be split by another writer to the same
 * pipe, and by journald from 48 KiB on, and the rest of it, from a client perhaps, would look like a line of its own.
 */
const MAX_LINE = 4096;

/** Whether journald reads our stderr; undefined before the first line. */
let isJournal: boolean | undefined;

/**
 * Writes one line to stderr. If journald reads it, the line begins with its priority, such as `<4>`, which journald
 * removes (sd-daemon(3)).
 *
 * @param line printable ASCII, without a newline. One that is too long is cut off, and ends with "...".
 * @returns whether it was written. It is lost when stderr is closed, or full and non-blocking: delivery of mail
 * must not depend on it.
 */
export function writeLine(line: string, level: Level): boolean {
  isJournal ??= isJournalStream(2, process.env.JOURNAL_STREAM);
  const prefix = isJournal ? `<${PRIORITIES[level]}>` : '';
  const whole = `${prefix}${line}\n`;
  try {
    // Not process.stderr: its stream costs start-up time, and writeSync completes before this function returns.
    writeSync(2, whole.length > MAX_LINE ? `${whole.slice(0, MAX_LINE - 4)}...\n` : whole);
    return true;
  } catch {
    return false;
  }
}

/**
 * Whether a descriptor is connected to the journal: the variable that systemd sets has its device and inode
 * (systemd.exec(5)). The variable alone means nothing. A process between systemd and this one may have replaced stderr.
 *
 * @param stream the value of JOURNAL_STREAM.
 */
function isJournalStream(descriptor: number, stream: string | undefined): boolean {
  if (stream === undefined) return false;
  try {
    const { dev, ino } = fstatSync(descriptor, { bigint: true });
    return stream === `${dev}:${ino}`;
  } catch {
    return false;
  }
}
