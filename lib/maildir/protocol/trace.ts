import type { Envelope } from './transaction.ts';

/** What is known of a message besides its envelope. */
export interface Circumstances {
  /** The name of this host. */
  readonly host: string;
  /** What the message is called here; printable ASCII. */
  readonly id: string;
  readonly date: Date;
  /** TCPREMOTEIP and the like, as the programs above have set them. */
  readonly environment: NodeJS.ProcessEnv;
}

/**
 * The lines that are put on top of a message at its delivery: Return-Path (RFC 5321 section 4.4), one
 * Delivered-To a recipient, and Received.
 *
 * Of what came from elsewhere, nothing is in them but printable ASCII that cannot end a line, a comment or
 * a clause.
 */
export function formatTrace(envelope: Envelope, circumstances: Circumstances): Buffer {
  const { host, id, date, environment } = circumstances;
  const [first, ...others] = envelope.recipients;
  const forWhom = others.length === 0 && first !== undefined ? `\n  for <${first}>` : '';
  const lines = [
    `Return-Path: <${envelope.sender}>`,
    ...envelope.recipients.map((recipient) => `Delivered-To: ${recipient}`),
    `Received: from ${plain(envelope.helloName)}${origin(environment)}`,
    `  by ${host}`,
    `  with ${protocol(envelope, environment)}`,
    `  id ${id}${forWhom};`,
    `  ${date.toUTCString().replace('GMT', '+0000')}`,
  ];
  return Buffer.from(`${lines.join('\n')}\n`, 'latin1');
}

/** Where the client is, by the word of the program that took the connection. */
function origin({ TCPREMOTEHOST, TCPREMOTEIP }: NodeJS.ProcessEnv): string {
  const address = TCPREMOTEIP === undefined ? [] : [addressLiteral(plain(TCPREMOTEIP))];
  const name = TCPREMOTEHOST === undefined ? [] : [plain(TCPREMOTEHOST)];
  const known = [...name, ...address].join(' ');
  return known === '' ? '' : `\n  (${known})`;
}

function addressLiteral(address: string): string {
  return address.includes(':') ? `[IPv6:${address}]` : `[${address}]`;
}

/** The name that RFC 3848 has for it: there is none for HELO in TLS. */
function protocol({ extended }: Envelope, { SSL_PROTOCOL, SSL_CIPHER }: NodeJS.ProcessEnv): string {
  if (SSL_PROTOCOL === undefined) return extended ? 'ESMTP' : 'SMTP';
  const session = [SSL_PROTOCOL, SSL_CIPHER].filter((part) => part !== undefined).map(plain);
  return `${extended ? 'ESMTPS' : 'SMTP'} (${session.join(' ')})`;
}

/** The longest name of a host, in octets (RFC 5321 section 4.5.3.1.2). */
const NAME_LIMIT = 255;

/**
 * Text that may stand in a Received line as one word: letters, digits and what names and addresses have
 * besides; everything else becomes a question mark.
 */
export function plain(text: string): string {
  return text.slice(0, NAME_LIMIT).replace(/[^A-Za-z0-9._:[\]-]/g, '?') || 'unknown';
}
