/**
 * The protocol on the control socket of UCSPI-TLS.
 *
 * The program sends `y` (start TLS) or `Y` (start TLS and describe it). The answer to `Y`, sent when the
 * handshake is done, is a sequence of strings `NAME=value`, or `NAME` alone for an unknown value, each terminated
 * by a NUL; one more NUL ends the sequence. When the handshake fails, the socket is closed without an answer.
 */

/** Requests TLS and its description. */
export const START_TLS_AND_DESCRIBE = 'Y';

/** Requests TLS. */
export const START_TLS = 'y';

/** The variables that describe a TLS session, by name; undefined for a variable without a value. */
export type TlsVariables = ReadonlyMap<string, string | undefined>;

/** The longest accepted answer, in octets; several times the size of a certificate chain in PEM. */
export const ANSWER_LIMIT = 262144;

/** A parsed answer. */
export interface Answer {
  readonly variables: TlsVariables;
  /** The bytes after the answer: data of the TLS session, when the control socket also carries that. */
  readonly rest: Buffer;
}

const END = Buffer.from([0, 0]);

/**
 * Parses an answer at the beginning of the received bytes. Two consecutive NULs end it, an empty answer too. The
 * end of the stream does not, because sslserver leaves the socket open.
 *
 * @returns undefined when the answer is incomplete.
 */
export function parseAnswer(received: Buffer): Answer | undefined {
  const end = received.indexOf(END);
  if (end < 0) return undefined;
  const variables = new Map<string, string | undefined>();
  for (const string of received.toString('utf8', 0, end).split('\0')) {
    const [, name, value] = /^([A-Za-z_]\w*)(?:=(.*))?$/s.exec(string) ?? [];
    // Without a valid name it cannot be an environment variable.
    if (name !== undefined) variables.set(name, value);
  }
  return { variables, rest: received.subarray(end + END.length) };
}

/** Formats an answer. */
export function formatAnswer(variables: TlsVariables): Buffer {
  let answer = '';
  for (const [name, value] of variables) answer += value === undefined ? `${name}\0` : `${name}=${value}\0`;
  return Buffer.from(answer === '' ? '\0\0' : `${answer}\0`);
}

/** Variables of s6-ucspitlsd, with the equivalent ones of mod_ssl and sslserver. */
const MOD_SSL_NAMES: ReadonlyMap<string, string> = new Map([
  ['SSL_TLS_SNI_SERVERNAME', 'SSL_TLS_SNI'],
  ['SSL_PEER_CERT_SUBJECT', 'SSL_CLIENT_S_DN'],
]);

/**
 * The environment of an smtpd: each variable under the name it was received with, and under the name of mod_ssl
 * where that differs, so that smtpd need not know which server is above.
 */
export function tlsEnvironment(variables: TlsVariables): Record<string, string | undefined> {
  const environment: Record<string, string | undefined> = {};
  for (const [name, value] of variables) {
    environment[name] = value;
    const other = MOD_SSL_NAMES.get(name);
    if (other !== undefined && !variables.has(other)) environment[other] = value;
  }
  return environment;
}

/** Variables that describe a TLS session or the client certificate to smtpd; not SSL_CERT_FILE of OpenSSL. */
const SESSION_VARIABLE = /^SSL_(?:PROTOCOL|CIPHER|TLS_SNI|TLS_SNI_SERVERNAME|(?:PEER_CERT|CLIENT)_.*)$/s;

/** The environment without the variables in which an outer server describes the TLS session of another connection. */
export function withoutTlsSession(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !SESSION_VARIABLE.test(name)));
}

/** Describes the session in one line, for stderr. Values that the client chooses are quoted. */
export function describeTls(variables: TlsVariables): string {
  const { SSL_PROTOCOL, SSL_CIPHER, SSL_TLS_SNI, SSL_CLIENT_S_DN } = tlsEnvironment(variables);
  return [
    SSL_PROTOCOL ?? 'unknown protocol',
    SSL_CIPHER ?? 'unknown cipher',
    SSL_TLS_SNI === undefined ? 'no SNI' : `SNI "${quote(SSL_TLS_SNI)}"`,
    SSL_CLIENT_S_DN === undefined
      ? 'no client certificate'
      : `client certificate "${quote(SSL_CLIENT_S_DN)}"`,
  ].join(', ');
}

/** Replaces double quotes, so that a text cannot end the quotes around it. */
function quote(text: string): string {
  return text.replaceAll('"', "'");
}
