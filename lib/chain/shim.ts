import { withUcspiTcp } from '../net/endpoints.ts';
import { createReporter } from '../program/reporter.ts';
import { passSignals } from '../program/signals.ts';
import type { SessionTerms } from '../session/options.ts';
import { startSession } from '../session/session.ts';
import { applyEnvelope } from '../smtpd/message-options.ts';
import { smtpdProgram } from '../smtpd/program.ts';
import type { MessageSettings } from '../smtpd/with-envelope.ts';
import { openStandard } from '../stream/descriptor.ts';
import { readUcspiTls, withoutUcspiTls } from '../ucspi/environment.ts';
import { createChainTlsOffer } from './chain-tls.ts';

/** The command line of the shim. */
export interface ShimOptions {
  readonly envelope: MessageSettings;
  readonly terms: SessionTerms;
  /** The smtpd, looked for along PATH, and its arguments. */
  readonly command: readonly string[];
  /** The name at the start of each message. */
  readonly program: string;
  /** 0 to 2, see `createReporter`. */
  readonly verbosity: number;
}

/**
 * Gives STARTTLS to an smtpd, between a client on descriptors 0 and 1 and the UCSPI-TLS server above.
 *
 * @returns the exit status: smtpd's.
 * @throws Failure (100) when there is no UCSPI-TLS server above, (111) when descriptors 0 and 1 are not connected
 * to a client.
 */
export async function runShim(options: ShimOptions, given: NodeJS.ProcessEnv): Promise<number> {
  const descriptors = readUcspiTls(given);
  const environment = withUcspiTcp(given);
  const report = createReporter(options.program, options.verbosity);
  const client = openStandard();
  const start = smtpdProgram(options.command, withoutUcspiTls(environment));
  const session = startSession({
    terms: options.terms,
    client,
    startSmtpd: await applyEnvelope(start, options.envelope, {
      clientAddress: environment.TCPREMOTEIP,
      report,
    }),
    report,
    tls: createChainTlsOffer({
      descriptors,
      client,
      environment,
      answerTimeout: options.terms.idleTimeout,
      report,
    }),
  });
  passSignals(session.terminate);
  const { status } = await session.ended;
  return status;
}
