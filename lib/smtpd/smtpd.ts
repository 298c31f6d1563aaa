import { type ByteStream, IGNORE } from '../stream/byte-stream.ts';
import { within } from '../stream/time.ts';

/**
 * What stands behind a session: takes SMTP commands and gives SMTP replies. It may be a program on pipes, a server on
 * the network, or something that has another smtpd behind it.
 */
export interface Smtpd extends ByteStream {
  /** Its name in the log: the process id of a program, the address of a server; undefined if there is none. */
  readonly label?: string | undefined;
  /** The process id of the program; undefined if there is none. */
  readonly pid?: number | undefined;
  /** Settles when it has ended, or at once if it could not be started. Never rejects. */
  readonly ended: Promise<SmtpdEnd>;
  /**
   * Changes the variables that describe the TLS session, if it has no state yet: then it need not be replaced by a new
   * smtpd in TLS. Absent, or false, if it must be.
   *
   * @param tlsEnvironment see `StartSmtpd`.
   */
  renew?(tlsEnvironment: Readonly<Record<string, string | undefined>>): boolean;
  /** Learns of TLS that was started in its session, for an smtpd that is kept. See `StartSmtpd` for the variables. */
  tlsStarted?(tlsEnvironment: Readonly<Record<string, string | undefined>>): void;
  /** Sends a signal, or does the nearest thing to that; has no effect once it has ended. */
  kill(signal: NodeJS.Signals): void;
}

/** How an smtpd ended. */
export interface SmtpdEnd {
  /**
   * The exit status of a program; 128 plus the number of the signal that killed it; 127 if there is no such program,
   * 126 if it cannot be run, 111 if the system lacked processes, descriptors or memory for it.
   */
  readonly status: number;
  /** The signal that killed it. */
  readonly signal?: NodeJS.Signals;
  /** How it ended, for messages, in place of its status: that of a connection is always 0. */
  readonly description?: string;
  /** Why it could not be started, as a message for stderr. */
  readonly failure?: string;
}

/** How long the system may take to report an exit once its output has ended, in milliseconds. */
const EXIT_DELAY = 500;

/** How long an smtpd has to end by itself, and again after SIGTERM, in milliseconds. */
export const GRACE = 5000;

/**
 * How long the output of an smtpd that has exited may stay open without data, in milliseconds. A process that it
 * left behind may hold it.
 */
export const ORPHAN_IDLE_TIMEOUT = 2000;

/**
 * Waits for the end of an smtpd that has just closed its output, for a short time.
 *
 * @returns how it ended; undefined if it still runs.
 */
export function endAfterOutput(smtpd: Smtpd): Promise<SmtpdEnd | undefined> {
  return within(EXIT_DELAY, smtpd.ended);
}

/**
 * Ends an smtpd that is no longer needed: closes its standard input and discards its output; if it has not exited
 * after `GRACE` milliseconds, sends SIGTERM, and after as long again, SIGKILL.
 */
export async function endSmtpd(smtpd: Smtpd): Promise<SmtpdEnd> {
  smtpd.sink.end();
  smtpd.source.listen(IGNORE);
  smtpd.source.read();
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    const end = await within(GRACE, smtpd.ended);
    if (end !== undefined) return end;
    smtpd.kill(signal);
  }
  return smtpd.ended;
}
