/**
 * The client's part of AUTH (RFC 4954), for the mechanisms that mail servers offer for passwords. It does no I/O.
 *
 * All of them give the password to anyone who reads the connection (CRAM-MD5 gives enough to guess it), so they are for TLS
 * with a verified server only. The caller ensures that.
 */

/** A user and a password. */
export interface Credentials {
  readonly user: string;
  readonly password: string;
}

/**
 * HMAC-MD5 (RFC 2104) in lower-case hexadecimal digits. The caller provides it, as this folder imports no cryptography.
 */
export type HmacMd5 = (key: string, message: Uint8Array) => string;

/** An exchange: yields lines to send without line ending, and takes the octets of each challenge. */
export type AuthExchange = Generator<string, void, Buffer>;

/** A mechanism: the name that servers offer it by, and its exchange. */
interface Mechanism {
  readonly name: string;
  exchange(credentials: Credentials, hmacMd5: HmacMd5): AuthExchange;
}

/** In the order of preference. In TLS, PLAIN is the simplest; CRAM-MD5 requires servers to store the password itself. */
const MECHANISMS: readonly Mechanism[] = [
  { name: 'PLAIN', exchange: plain },
  { name: 'LOGIN', exchange: login },
  { name: 'CRAM-MD5', exchange: cramMd5 },
];

/**
 * Chooses a mechanism.
 *
 * @param offered the texts of the lines of the reply to EHLO; one of them may be "AUTH PLAIN LOGIN", or "AUTH=PLAIN" as
 * old servers write it.
 * @returns its exchange; undefined if none of these mechanisms is offered.
 */
export function chooseAuth(
  offered: readonly string[],
  credentials: Credentials,
  hmacMd5: HmacMd5,
): AuthExchange | undefined {
  const names = new Set(
    offered.flatMap((text) => /^\s*AUTH[ =](.*)$/is.exec(text)?.[1]?.toUpperCase().split(/\s+/) ?? []),
  );
  return MECHANISMS.find(({ name }) => names.has(name))?.exchange(credentials, hmacMd5);
}

/** RFC 4616, with the initial response of RFC 4954 section 4. */
function* plain({ user, password }: Credentials): AuthExchange {
  yield `AUTH PLAIN ${base64(`\0${user}\0${password}`)}`;
}

/** A mechanism without an RFC: the server asks for the user, then for the password, in words that differ. */
function* login({ user, password }: Credentials): AuthExchange {
  yield 'AUTH LOGIN';
  yield base64(user);
  yield base64(password);
}

/** RFC 2195. */
function* cramMd5({ user, password }: Credentials, hmacMd5: HmacMd5): AuthExchange {
  const challenge = yield 'AUTH CRAM-MD5';
  yield base64(`${user} ${hmacMd5(password, challenge)}`);
}

function base64(text: string): string {
  return Buffer.from(text, 'utf8').toString('base64');
}
