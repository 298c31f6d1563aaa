/**
 * The log of a resident server: one line per event on stderr, for multilog, s6-log or journald to keep.
 *
 *     smtpd-starttls-server: info: event=accepted id=7 remote=192.0.2.1:40112
 *
 * The program and the level come first, as in the messages of all our programs, then `key=value`. There is no time
 * stamp: the log collector prepends one.
 */

import { type Level, printable, type Reporter, writeLine } from '../program/reporter.ts';

/** The fields of an event, by name. Fields that are undefined are omitted. */
export type LogFields = Readonly<Record<string, string | number | undefined>>;

/** Fields, or a function that makes them, which is called only for a line that is written. */
type Fields = LogFields | (() => LogFields);

/** Writes events to a log. */
export interface Log {
  /** An error that ends the server. Logged at every level. */
  fatal(event: string, fields?: Fields): void;
  /** An error that at most ends a session, or a suspicious event; the server continues. Level 1. */
  warning(event: string, fields?: Fields): void;
  /** A normal event. Level 2. */
  info(event: string, fields?: Fields): void;
  /** An event for debugging. Level 3. */
  debug(event: string, fields?: Fields): void;
  /**
   * Creates a log that puts these fields before those of each line. A later field replaces an earlier one of the same
   * name.
   */
  with(fields: Fields): Log;
  /**
   * Creates a reporter for code that reports texts: each becomes a line with the field `text`. What is fatal to a session
   * is a warning here.
   *
   * @param event the event of those lines.
   */
  reporter(event?: string): Reporter;
}

/** Where lines are written, and up to which level. */
interface Outlet {
  readonly program: string;
  readonly level: number;
  readonly write: typeof writeLine;
  /** How many lines could not be written since the last one that was. */
  lost: number;
}

/**
 * The maximum length of a value, in characters. A line of a few such values is written to a pipe atomically
 * (PIPE_BUF, 4096 octets), so lines of several processes with one stderr never mix.
 */
const MAX_VALUE_LENGTH = 500;

/**
 * Creates the log of a program.
 *
 * @param program the name at the start of each line.
 * @param level 0 for fatal only, 1 to add warning, 2 to add info, 3 or more for all.
 * @param write writes one line, given without its LF, and returns whether it was written. The first line after some
 * were lost has their number in the field `lost_lines`.
 */
export function createLog(program: string, level: number, write = writeLine): Log {
  return logTo({ program: printable(program), level, write, lost: 0 }, []);
}

function logTo(outlet: Outlet, context: readonly Fields[]): Log {
  // The level is checked first, so a line that is not logged costs no more than this.
  const fatal: Log['fatal'] = (event, fields = {}) =>
    writeEvent(outlet, 'fatal', event, [...context, fields]);
  const warning: Log['warning'] = (event, fields = {}) => {
    if (outlet.level >= 1) writeEvent(outlet, 'warning', event, [...context, fields]);
  };
  const info: Log['info'] = (event, fields = {}) => {
    if (outlet.level >= 2) writeEvent(outlet, 'info', event, [...context, fields]);
  };
  return {
    fatal,
    warning,
    info,
    debug: (event, fields = {}) => {
      if (outlet.level >= 3) writeEvent(outlet, 'debug', event, [...context, fields]);
    },
    with: (fields) => logTo(outlet, [...context, fields]),
    reporter: (event = 'session') => ({
      fatal: (text) => warning(event, { text }),
      warning: (text) => warning(event, { text }),
      info: (text) => info(event, { text }),
    }),
  };
}

function writeEvent(outlet: Outlet, level: Level, event: string, fields: readonly Fields[]): void {
  const given = fields.map((some) => (typeof some === 'function' ? some() : some));
  const lost = outlet.lost === 0 ? undefined : outlet.lost;
  const formatted = formatFields(Object.assign({}, ...given, { lost_lines: lost }));
  const line = `${outlet.program}: ${level}: event=${formatValue(event)}${formatted}`;
  const written = outlet.write(line, level);
  outlet.lost = written ? 0 : outlet.lost + 1;
}

function formatFields(fields: LogFields): string {
  let text = '';
  for (const [key, value] of Object.entries(fields)) {
    // Keys are constants of ours. Replacing other characters keeps the line valid should one be wrong.
    if (value !== undefined) text += ` ${key.replace(/[^\w.-]/g, '_')}=${formatValue(String(value))}`;
  }
  return text;
}

function formatValue(value: string): string {
  const text = value.length > MAX_VALUE_LENGTH ? `${value.slice(0, MAX_VALUE_LENGTH)}...` : value;
  return /^[\w.:/@+-]+$/.test(text) ? text : `"${printable(text).replaceAll('"', '\\"')}"`;
}
