import { writeSync } from 'node:fs';

/** Reports events on stderr, one line each: `program: level: what: why`. */
export interface Reporter {
  /** An error that ends the session or the program. Reported at every level. */
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
    fatal: (text) => writePrintable(`${program}: fatal: ${text}`),
    warning: (text) => {
      if (level >= 1) writePrintable(`${program}: warning: ${text}`);
    },
    info: (text) => {
      if (level >= 2) writePrintable(`${program}: info: ${text}`);
    },
  };
}

function writePrintable(text: string): void {
  writeLine(printable(text));
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

/**
 * Writes one line to stderr.
 *
 * @param line printable ASCII, without a newline.
 * @returns whether it was written. It is lost when stderr is closed, or full and non-blocking: delivery of mail
 * must not depend on it.
 */
export function writeLine(line: string): boolean {
  try {
    // Not process.stderr: its stream costs start-up time, and writeSync completes before this function returns.
    writeSync(2, `${line}\n`);
    return true;
  } catch {
    return false;
  }
}
