import type { Reporter } from '../program/reporter.ts';
import { needsEnvelope } from '../smtpd/message-options.ts';
import type { StartSmtpd } from '../smtpd/program.ts';
import { type CreateRewriting, configureRewriting } from '../smtpd/srs/configure-rewriting.ts';
import type { SrsOptions } from '../smtpd/srs/options.ts';
import { type MessageSettings, withEnvelope } from '../smtpd/with-envelope.ts';
import type { SecretsSnapshot } from './secrets.ts';

/** The settings of the envelopes of a service. */
export interface EnvelopesOptions {
  readonly envelope: MessageSettings;
  /** Undefined without SRS. */
  readonly srs: SrsOptions | undefined;
}

/** The envelopes of a service: what is done to sessions on their way to an smtpd. */
export interface Envelopes {
  /** Uses these keys from the next session on. With SRS, it must be called before the first. */
  renew(secrets: Pick<SecretsSnapshot, 'srsKeys'>): void;
  /**
   * Puts an envelope around each smtpd of a connection, if the settings need one.
   *
   * @param id identifies the connection.
   */
  around(start: StartSmtpd, clientAddress: string, id: string, report: Reporter): StartSmtpd;
}

/** Creates the envelopes of a service. */
export function createEnvelopes({ envelope, srs }: EnvelopesOptions): Envelopes {
  let rewriting: CreateRewriting | undefined;
  const isNeeded = srs !== undefined || needsEnvelope(envelope);
  return {
    renew: ({ srsKeys }) => {
      if (srs === undefined || srsKeys === undefined) return;
      const [first, ...others] = srsKeys;
      const decode = (key: string): Buffer => Buffer.from(key, 'base64');
      rewriting = configureRewriting(srs, [decode(first), ...others.map(decode)]);
    },
    around: (start, clientAddress, id, report) => {
      if (!isNeeded) return start;
      const create = rewriting;
      if (srs !== undefined && create === undefined) throw new Error('there are no SRS keys yet');
      return withEnvelope(start, envelope, {
        clientAddress,
        id,
        report,
        ...(create !== undefined && { createDecide: () => create(report) }),
      });
    },
  };
}
