/**
 * What is said on the control socket of UCSPI-TLS.
 *
 * The program says `y` (start TLS) or `Y` (start TLS and describe it). The answer to `Y`, given when the
 * handshake is done, is a run of strings `NAME=value`, or `NAME` alone for what is not known, each ended
 * by a NUL; one more NUL ends the run. When there is no TLS, the socket is closed and nothing said.
 */

/** Asks for TLS and for its description. */
export const START_TLS_AND_DESCRIBE = 'Y';

/** Asks for TLS. */
export const START_TLS = 'y';

/** What is known of a TLS session, by name; undefined stands for what the server knows not to be there. */
export type TlsVariables = ReadonlyMap<string, string | undefined>;

/** The longest answer that is taken, in octets; a chain of certificates in PEM fits many times. */
export const ANSWER_LIMIT = 262144;

/** An answer, taken apart. */
export interface Answer {
  readonly variables: TlsVariables;
  /** What stood behind it: bytes of the TLS session, when the control socket carries that too. */
  readonly rest: Buffer;
}

const END = Buffer.from([0, 0]);

/**
 * Looks for a whole answer at the beginning of what was received. Two NULs in a row are its end, in an
 * empty answer too; the end of the socket is not, because sslserver leaves it open.
 *
 * @returns undefined when the end has not come yet.
 */
export function parseAnswer(received: Buffer): Answer | undefined {
  const end = received.indexOf(END);
  if (end < 0) return undefined;
  const variables = new Map<string, string | undefined>();
  for (const string of received.toString('utf8', 0, end).split('\0')) {
    const [, name, value] = /^([A-Za-z_]\w*)(?:=(.*))?$/s.exec(string) ?? [];
    // What has no name cannot stand in an environment.
    if (name !== undefined) variables.set(name, value);
  }
  return { variables, rest: received.subarray(end + END.length) };
}

/** Writes an answer. */
export function formatAnswer(variables: TlsVariables): Buffer {
  let answer = '';
  for (const [name, value] of variables) answer += value === undefined ? `${name}\0` : `${name}=${value}\0`;
  return Buffer.from(answer === '' ? '\0\0' : `${answer}\0`);
}

/** Names of s6-ucspitlsd, and the names that mod_ssl and sslserver have for the same. */
const MOD_SSL_NAMES: ReadonlyMap<string, string> = new Map([
  ['SSL_TLS_SNI_SERVERNAME', 'SSL_TLS_SNI'],
  ['SSL_PEER_CERT_SUBJECT', 'SSL_CLIENT_S_DN'],
]);

/**
 * The variables as environment for an smtpd: each under the name it came with, and under mod_ssl's where
 * that differs, so that smtpd need not know which server is above.
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

/** Names that tell smtpd of a TLS session, or of the client's certificate; not SSL_CERT_FILE of OpenSSL. */
const SESSION_VARIABLE = /^SSL_(?:PROTOCOL|CIPHER|TLS_SNI|TLS_SNI_SERVERNAME|(?:PEER_CERT|CLIENT)_.*)$/s;

/** The environment without what an outer server has said of the TLS session of another connection. */
export function withoutTlsSession(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !SESSION_VARIABLE.test(name)));
}

/** The session in one line, for stderr. What a client has made up itself stands in quotes. */
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

/** Keeps a text from stopping the quotes that it stands in. */
function quote(text: string): string {
  return text.replaceAll('"', "'");
}
