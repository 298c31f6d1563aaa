import { refuseInspector } from '../program/inspector.ts';
import { createReporter } from '../program/reporter.ts';
import type { SessionTimes } from '../session/options.ts';
import { runStandardSession } from '../session/standard-session.ts';
import { smtpdProgram } from '../smtpd/program.ts';
import { configureRewriting } from '../smtpd/srs/configure-rewriting.ts';
import { readSrsKeysFile } from '../smtpd/srs/keys-file.ts';
import type { SrsOptions } from '../smtpd/srs/options.ts';
import { type MessageSettings, withEnvelope } from '../smtpd/with-envelope.ts';

/** The command line of smtpd-srs-io. */
export interface SrsIoOptions extends SrsOptions, Pick<MessageSettings, 'strictNewlines'>, SessionTimes {
  /** The smtpd, looked for along PATH, and its arguments. */
  readonly command: readonly string[];
  /** The name at the start of each message. */
  readonly program: string;
  /** 0 to 2, see `createReporter`. */
  readonly verbosity: number;
}

/**
 * Rewrites the envelopes of the session between the client on descriptors 0 and 1 and an smtpd by SRS.
 *
 * @param environment that of smtpd.
 * @returns the exit status: smtpd's.
 * @throws Failure (100, 111) when the keys cannot be used, (111) when descriptors 0 and 1 are not connected to a client,
 * and see `refuseInspector`.
 */
export async function runSrsIo(options: SrsIoOptions, environment: NodeJS.ProcessEnv): Promise<number> {
  refuseInspector();
  const report = createReporter(options.program, options.verbosity);
  const keys = readSrsKeysFile('--keys', options.keysFile, report);
  const createRewriting = configureRewriting(options, keys);
  const { strictNewlines } = options;
  return runStandardSession({
    times: options,
    report,
    startSmtpd: withEnvelope(
      smtpdProgram(options.command, environment),
      { received: undefined, strictNewlines },
      { clientAddress: undefined, createDecide: () => createRewriting(report), report },
    ),
  });
}
