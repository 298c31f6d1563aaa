import { formatReceived } from '../../smtp/received.ts';
import type { Envelope } from './transaction.ts';

/** What the trace header fields contain besides the envelope. */
export interface TraceContext {
  /** The name of this host. */
  readonly host: string;
  /** The name of the message in the Maildir; printable ASCII. */
  readonly id: string;
  readonly date: Date;
  /** Where TCPREMOTEIP, TCPREMOTEHOST, SSL_PROTOCOL and SSL_CIPHER are read. */
  readonly environment: NodeJS.ProcessEnv;
}

/**
 * The header fields that are added to a message at delivery: Return-Path (RFC 5321 section 4.4), one
 * Delivered-To for each recipient, and Received.
 *
 * Values from the client and the environment are reduced to printable ASCII that cannot end a line, a comment
 * or a clause.
 */
export function formatTrace(envelope: Envelope, context: TraceContext): Buffer {
  const { host: by, id, date, environment } = context;
  const { TCPREMOTEHOST, TCPREMOTEIP, SSL_PROTOCOL, SSL_CIPHER } = environment;
  const [first, ...others] = envelope.recipients;
  const lines = [
    `Return-Path: <${envelope.sender}>`,
    ...envelope.recipients.map((recipient) => `Delivered-To: ${recipient}`),
    ...formatReceived({
      helloName: envelope.helloName,
      clientName: TCPREMOTEHOST,
      clientAddress: TCPREMOTEIP,
      by,
      id,
      date,
      protocol: { hello: envelope.extended ? 'EHLO' : 'HELO', isAuthenticated: false, isUtf8: false },
      tls: SSL_PROTOCOL === undefined ? undefined : { protocol: SSL_PROTOCOL, cipher: SSL_CIPHER },
      recipient: others.length === 0 ? first : undefined,
    }),
  ];
  return Buffer.from(`${lines.join('\n')}\n`, 'latin1');
}
