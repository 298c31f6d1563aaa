import { writeSync } from 'node:fs';

/** Says what happens, each thing on one line of stderr: `program: level: what: why`. */
export interface Reporter {
  /** Something that ends the session or the program. Always said. */
  fatal(text: string): void;
  /** Something that went wrong or looks wrong; the session goes on or ends in good order. Level 1. */
  warning(text: string): void;
  /** Something that is good to know. Level 2. */
  info(text: string): void;
}

/**
 * Makes the reporter of a program.
 *
 * @param program the name that each line begins with.
 * @param level 0 for fatal errors alone, 1 for warnings too, 2 and more for all.
 */
export function createReporter(program: string, level: number): Reporter {
  return {
    fatal: (text) => say(`${program}: fatal: ${text}`),
    warning: (text) => {
      if (level >= 1) say(`${program}: warning: ${text}`);
    },
    info: (text) => {
      if (level >= 2) say(`${program}: info: ${text}`);
    },
  };
}

function say(text: string): void {
  writeLine(printable(text));
}

/**
 * A text that stands on one line, whatever is in it: names out of certificates, say, are in the hand of
 * strangers, so everything but printable ASCII is written as `\xNN` or `\uNNNN`, and a backslash as two.
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
 * @param line without its end; printable ASCII.
 * @returns whether it was written. If not, nobody reads our stderr, or it is full and non-blocking; mail
 * matters more.
 */
export function writeLine(line: string): boolean {
  try {
    // Not process.stderr: its stream costs start-up time, and this way the line is out before we go on.
    writeSync(2, `${line}\n`);
    return true;
  } catch {
    return false;
  }
}
