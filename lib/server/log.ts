/**
 * The log of a resident server: one line an event on stderr, for multilog, s6-log or journald to keep.
 *
 *     smtpd-starttls-server: info: event=accepted id=7 remote=192.0.2.1:40112
 *
 * First the program and the level as all our programs write them, then `key=value`. There is no time in it:
 * who keeps the log puts one before each line.
 */

import { printable, type Reporter, writeLine } from '../program/reporter.ts';

/** What is known of an event, by name. What is undefined is left out. */
export type LogFields = Readonly<Record<string, string | number | undefined>>;

/** Writes events down. */
export interface Log {
  /** Something that ends the server, or a session before its time. Always said. */
  fatal(event: string, fields?: LogFields): void;
  /** Something that went wrong or looks wrong; the server goes on. Level 1. */
  warning(event: string, fields?: LogFields): void;
  /** Something that is good to know. Level 2. */
  info(event: string, fields?: LogFields): void;
  /** Something for whoever looks for a fault. Level 3. */
  debug(event: string, fields?: LogFields): void;
  /**
   * A log whose lines have these fields too, before their own. A field of the same name that comes later
   * takes the place of the earlier.
   */
  with(fields: LogFields): Log;
  /**
   * The reporter for parts that say texts: each is a line with the field `text`.
   *
   * @param event what those lines are about; "session" if nothing else.
   */
  reporter(event?: string): Reporter;
}

/** Where lines go, and which. */
interface Outlet {
  readonly program: string;
  readonly level: number;
  readonly write: (line: string) => boolean;
  /** How many lines could not be written since the last that could. */
  lost: number;
}

/**
 * The most characters of a value. A line of a few such values is short enough for a pipe to take it in one
 * piece (PIPE_BUF, 4096 octets), so that the lines of several processes with one stderr never mix.
 */
const MAX_VALUE = 500;

/**
 * Makes the log of a program.
 *
 * @param program the name that each line begins with.
 * @param level 0 for fatal alone, 1 for warning too, 2 for info too, 3 and more for all.
 * @param write writes one line, which comes without its end, and says whether that went well. The next line
 * after those that were lost has their number in the field `lost_lines`.
 */
export function createLog(program: string, level: number, write = writeLine): Log {
  return logTo({ program: printable(program), level, write, lost: 0 }, {});
}

function logTo(outlet: Outlet, context: LogFields): Log {
  // The level first: what is not said costs no more than this.
  const fatal: Log['fatal'] = (event, fields) => say(outlet, 'fatal', event, { ...context, ...fields });
  const warning: Log['warning'] = (event, fields) => {
    if (outlet.level >= 1) say(outlet, 'warning', event, { ...context, ...fields });
  };
  const info: Log['info'] = (event, fields) => {
    if (outlet.level >= 2) say(outlet, 'info', event, { ...context, ...fields });
  };
  return {
    fatal,
    warning,
    info,
    debug: (event, fields) => {
      if (outlet.level >= 3) say(outlet, 'debug', event, { ...context, ...fields });
    },
    with: (fields) => logTo(outlet, { ...context, ...fields }),
    reporter: (event = 'session') => ({
      fatal: (text) => fatal(event, { text }),
      warning: (text) => warning(event, { text }),
      info: (text) => info(event, { text }),
    }),
  };
}

function say(outlet: Outlet, level: string, event: string, fields: LogFields): void {
  const lost = outlet.lost === 0 ? undefined : outlet.lost;
  const all = formatFields({ ...fields, lost_lines: lost });
  const written = outlet.write(`${outlet.program}: ${level}: event=${formatValue(event)}${all}`);
  outlet.lost = written ? 0 : outlet.lost + 1;
}

function formatFields(fields: LogFields): string {
  let text = '';
  for (const [key, value] of Object.entries(fields)) {
    // Keys are our own words. Should one be none, the line is still a line.
    if (value !== undefined) text += ` ${key.replace(/[^\w.-]/g, '_')}=${formatValue(String(value))}`;
  }
  return text;
}

function formatValue(value: string): string {
  const text = value.length > MAX_VALUE ? `${value.slice(0, MAX_VALUE)}...` : value;
  return /^[\w.:/@+-]+$/.test(text) ? text : `"${printable(text).replaceAll('"', '\\"')}"`;
}
