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
  const { host, id, date, environment } = context;
  const [first, ...others] = envelope.recipients;
  const forClause = others.length === 0 && first !== undefined ? `\n  for <${first}>` : '';
  const lines = [
    `Return-Path: <${envelope.sender}>`,
    ...envelope.recipients.map((recipient) => `Delivered-To: ${recipient}`),
    `Received: from ${sanitize(envelope.helloName)}${formatPeer(environment)}`,
    `  by ${host}`,
    `  with ${formatProtocol(envelope, environment)}`,
    `  id ${id}${forClause};`,
    `  ${date.toUTCString().replace('GMT', '+0000')}`,
  ];
  return Buffer.from(`${lines.join('\n')}\n`, 'latin1');
}

/** The client's host name and address, as the server that accepted the connection set them. */
function formatPeer({ TCPREMOTEHOST, TCPREMOTEIP }: NodeJS.ProcessEnv): string {
  const address = TCPREMOTEIP === undefined ? [] : [addressLiteral(sanitize(TCPREMOTEIP))];
  const name = TCPREMOTEHOST === undefined ? [] : [sanitize(TCPREMOTEHOST)];
  const peer = [...name, ...address].join(' ');
  return peer === '' ? '' : `\n  (${peer})`;
}

function addressLiteral(address: string): string {
  return address.includes(':') ? `[IPv6:${address}]` : `[${address}]`;
}

/** The protocol name of RFC 3848, which has none for HELO in TLS. */
function formatProtocol({ extended }: Envelope, { SSL_PROTOCOL, SSL_CIPHER }: NodeJS.ProcessEnv): string {
  if (SSL_PROTOCOL === undefined) return extended ? 'ESMTP' : 'SMTP';
  const tls = [SSL_PROTOCOL, SSL_CIPHER].filter((part) => part !== undefined).map(sanitize);
  return `${extended ? 'ESMTPS' : 'SMTP'} (${tls.join(' ')})`;
}

/** The maximum length of a host name, in octets (RFC 5321 section 4.5.3.1.2). */
const NAME_LIMIT = 255;

/**
 * Makes a text safe to be one word of a Received field: at most 255 characters, with a question mark for each
 * that does not occur in host names and addresses; "unknown" if it is empty.
 */
export function sanitize(text: string): string {
  return text.slice(0, NAME_LIMIT).replace(/[^A-Za-z0-9._:[\]-]/g, '?') || 'unknown';
}
