import type { Reporter } from '../program/reporter.ts';
import { addReceived } from '../smtp/add-received.ts';
import type { Decide, Decision } from '../smtp/decision.ts';
import type { Received } from '../smtp/received.ts';
import { REPLIES } from '../smtp/reply.ts';
import { enveloped } from './enveloped.ts';
import type { StartSmtpd } from './program.ts';

/** What an envelope does to the messages for an smtpd. */
export interface MessageSettings {
  /** The name of this host in a Received field; undefined for no field. */
  readonly received: string | undefined;
  /** See `EnvelopeOptions`. */
  readonly strictNewlines: boolean;
}

/** What concerns one connection. */
export interface EnvelopeConnection {
  /** The IP address of the client; undefined if it is unknown. */
  readonly clientAddress: string | undefined;
  /** Identifies the session in Received fields; by default, the time and the process id do. */
  readonly id?: string;
  /** Decides on the commands of a session; undefined to pass all. Called for each smtpd. */
  readonly createDecide?: () => Decide;
  readonly report: Reporter;
}

const PASS: Decision = { type: 'pass' };

/** What passes all commands but STARTTLS, which an smtpd may offer itself: what follows could not be read. */
const passAll: Decide = ({ kind }) =>
  kind === 'starttls' ? { type: 'answer', reply: REPLIES.noSecondTls } : PASS;

/** Puts an envelope around each smtpd of a connection. */
export function withEnvelope(
  start: StartSmtpd,
  { received, strictNewlines }: MessageSettings,
  { clientAddress, id = uniqueId(), createDecide, report }: EnvelopeConnection,
): StartSmtpd {
  return (tlsEnvironment) => {
    let tls = tlsEnvironment.SSL_PROTOCOL === undefined ? undefined : describeTls(tlsEnvironment);
    const others = createDecide?.() ?? passAll;
    const decide =
      received === undefined
        ? others
        : addReceived(others, { by: received, clientAddress, id, tls: () => tls, now: Date.now });
    return enveloped(start(tlsEnvironment), {
      decide,
      strictNewlines,
      report,
      tlsStarted: (environment) => {
        tls = describeTls(environment);
      },
    });
  };
}

function uniqueId(): string {
  return `${Math.floor(Date.now() / 1000)}-${process.pid}`;
}

function describeTls({ SSL_PROTOCOL, SSL_CIPHER }: Parameters<StartSmtpd>[0]): Received['tls'] {
  return { protocol: SSL_PROTOCOL, cipher: SSL_CIPHER };
}
