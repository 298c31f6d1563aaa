import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createSecureContext, type SecureContextOptions } from 'node:tls';
import { EXIT, errorCode, Failure } from '../program/failure.ts';
import { readRegularFile } from './file.ts';

/**
 * What is offered below TLS 1.3, whose own suites are all good: forward secrecy and authenticated
 * encryption only. Every mail server that knows TLS 1.2 in earnest has one of them.
 */
const CIPHERS = [
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'TLS_AES_128_GCM_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
].join(':');

/** The groups of the key exchange that every mail client in use knows one of, the cheapest first. */
const GROUPS = 'X25519:P-256:P-384';

/**
 * The groups of the key exchange to offer (RFC 8446 section 4.2.7), as OpenSSL takes them.
 *
 * A client may choose any of them without any arithmetic, so the server must be able to afford each: OpenSSL's
 * own list has ffdhe8192, at a hundred times the price of X25519 (CVE-2002-20001), and P-521. X25519MLKEM768,
 * which also resists quantum computers, costs what X25519 does.
 *
 * @param openssl its version: X25519MLKEM768 exists from 3.5 on. The question mark is for a build without it;
 * versions before 3.3 do not know that, and refuse the whole list.
 */
export function keyExchangeGroups(openssl: string): string {
  const [major = 0, minor = 0] = openssl.split('.').map(Number);
  return major > 3 || (major === 3 && minor >= 5) ? `?X25519MLKEM768:${GROUPS}` : GROUPS;
}

/** A certificate with its key, both in PEM. Behind it there may be those that lead to its authority. */
export interface KeyPair {
  readonly certificate: string;
  readonly key: string;
}

/**
 * The keys and certificates of a server, as they were read. Plain data, so that one process may read them
 * and pass them on to others as JSON.
 */
export interface CredentialFiles {
  /** For clients that name no server, or one that is not known; empty when there is nothing for them. */
  readonly standard: readonly KeyPair[];
  /** By server name, in lower case; `*.` stands for any first label. No two pairs have keys of one kind. */
  readonly byName: Readonly<Record<string, readonly KeyPair[]>>;
  /** The certificates, in PEM, that those of clients are judged by; empty when clients are not asked. */
  readonly authorities: readonly string[];
}

/** Which variables of the environment are to be read. */
export interface CredentialOptions {
  /** 0 for KEYFILE and CERTFILE; 1 for KEYFILE:name and CERTFILE:name too; 2 for only those. */
  readonly sniLevel: number;
  /** Whether client certificates will be asked for, and CAFILE or CADIR be needed. */
  readonly asksClients: boolean;
}

/**
 * Reads keys and certificates, as the variables of s6-tlsd-io name them: KEYFILE and CERTFILE,
 * KEYFILE:name and CERTFILE:name, CAFILE or CADIR. Files are in PEM or DER; CAFILE is in PEM. They are regular
 * files or links to such.
 *
 * Beside each pair there may be others with keys of other kinds, KEYFILE2 and CERTFILE2 to KEYFILE9 and
 * CERTFILE9, with `:name` or without: TLS takes the one that the client knows best.
 *
 * @throws Failure (100, or 111 when a file cannot be read) that names the variable, the file, and what is
 * wrong with it.
 */
export function readCredentials(environment: NodeJS.ProcessEnv, options: CredentialOptions): CredentialFiles {
  const { standard, byName, authorities } = findFiles(environment, options);
  const read = { authorities: authorities === undefined ? [] : readAuthorities(authorities) };
  const named = [...byName].map(([name, pairs]) => [name, readPairs(pairs, read.authorities)] as const);
  return { ...read, standard: readPairs(standard, read.authorities), byName: Object.fromEntries(named) };
}

/**
 * The paths of all that `readCredentials` reads, to be watched: with CADIR, the folder and what is in it now.
 *
 * @throws Failure as `readCredentials` does when a variable is missing or CADIR cannot be read.
 */
export function credentialPaths(environment: NodeJS.ProcessEnv, options: CredentialOptions): string[] {
  const { standard, byName, authorities } = findFiles(environment, options);
  const pairs = [standard, ...byName.values()].flat();
  const files = pairs.flatMap(({ certificate, key }) => [certificate.path, key.path]);
  return authorities === undefined
    ? files
    : [...files, authorities.path, ...authorities.files.map(({ path }) => path)];
}

/**
 * Finds what there is for a client that named a server (SNI, RFC 6066 section 3).
 *
 * @param byName by server name, as in `CredentialFiles`.
 * @returns undefined when there is nothing for that name in particular.
 */
export function credentialsFor<T>(byName: ReadonlyMap<string, T>, name: string): T | undefined {
  const exact = name.toLowerCase();
  return byName.get(exact) ?? byName.get(exact.replace(/^[^.]+/, '*'));
}

/**
 * What node:tls is to be told of certificates: pairs that are offered together, and who judges clients.
 *
 * @param pairs none for a server that has to refuse its clients.
 */
export function contextOptions(
  pairs: readonly KeyPair[],
  authorities: readonly string[],
): SecureContextOptions {
  return {
    minVersion: 'TLSv1.2',
    ciphers: CIPHERS,
    ecdhCurve: keyExchangeGroups(process.versions.openssl),
    honorCipherOrder: true,
    cert: pairs.map(({ certificate }) => certificate),
    key: pairs.map(({ key }) => key),
    // Also when there are none: without a list Node reads in the authorities of the web, which are not to
    // judge mail clients, and takes 15 ms for it, as long as all the rest of a start.
    ca: [...authorities],
  };
}

/** A file, and the variable that named it. */
interface NamedFile {
  readonly variable: string;
  readonly path: string;
}

/** Where a key and its certificate are. */
interface FilePair {
  readonly certificate: NamedFile;
  readonly key: NamedFile;
}

/** Where the certificates are that those of clients are judged by: CAFILE, or all files in CADIR. */
interface AuthorityFiles extends NamedFile {
  readonly files: readonly NamedFile[];
}

/** Finds out from the environment what is to be read. @throws Failure. */
function findFiles(
  environment: NodeJS.ProcessEnv,
  { sniLevel, asksClients }: CredentialOptions,
): { standard: FilePair[]; byName: Map<string, FilePair[]>; authorities: AuthorityFiles | undefined } {
  const byName = new Map<string, FilePair[]>();
  if (sniLevel > 0) {
    for (const variable of Object.keys(environment)) {
      const suffix = /^KEYFILE[2-9]?(:.+)$/.exec(variable)?.[1];
      if (suffix !== undefined) byName.set(suffix.slice(1).toLowerCase(), findPairs(environment, suffix));
    }
  }
  if (sniLevel >= 2 && byName.size === 0) throw refusal('no variable KEYFILE:name is set');
  return {
    standard: sniLevel < 2 ? findPairs(environment, '') : [],
    byName,
    authorities: asksClients ? findAuthorities(environment) : undefined,
  };
}

/** The first pair must be there, and the others be whole. */
function findPairs(environment: NodeJS.ProcessEnv, suffix: string): FilePair[] {
  const others = [...'23456789'].filter(
    (number) =>
      environment[`CERTFILE${number}${suffix}`] !== undefined ||
      environment[`KEYFILE${number}${suffix}`] !== undefined,
  );
  return ['', ...others].map((number) => ({
    certificate: readVariable(environment, `CERTFILE${number}${suffix}`),
    key: readVariable(environment, `KEYFILE${number}${suffix}`),
  }));
}

function findAuthorities(environment: NodeJS.ProcessEnv): AuthorityFiles {
  const variable = environment.CAFILE !== undefined ? 'CAFILE' : 'CADIR';
  const file = readVariable(environment, variable);
  const { path } = file;
  const files =
    variable === 'CAFILE' ? [file] : list(path).map((name) => ({ variable, path: join(path, name) }));
  return { ...file, files };
}

function readVariable(environment: NodeJS.ProcessEnv, variable: string): NamedFile {
  const path = environment[variable];
  if (path === undefined || path === '') throw refusal(`${variable} is not set`);
  return { variable, path };
}

/** Reads pairs that are to be offered together. */
function readPairs(files: readonly FilePair[], authorities: readonly string[]): KeyPair[] {
  const kinds = new Map<string, NamedFile>();
  return files.map((file) => {
    const { pair, kind } = readPair(file, authorities);
    const other = kinds.get(kind);
    if (other !== undefined) {
      // OpenSSL has room for one of a kind, and would take the last.
      const both = `${other.variable} ${other.path} and ${file.key.variable} ${file.key.path}`;
      throw refusal(`${both} are keys of the same kind (${kind})`);
    }
    kinds.set(kind, file.key);
    return pair;
  });
}

function readPair(
  { certificate, key }: FilePair,
  authorities: readonly string[],
): { pair: KeyPair; kind: string } {
  const read = {
    certificate: parse(certificate, 'certificate', (bytes) => new X509Certificate(bytes)),
    key: parse(key, 'private key', parseKey).value,
  };
  if (!read.certificate.value.checkPrivateKey(read.key)) {
    throw refusal(
      `${key.variable} ${key.path} is not the key of ${certificate.variable} ${certificate.path}`,
    );
  }
  const pair = {
    // A PEM file may hold the chain too, of which X509Certificate keeps the first alone.
    certificate: isPem(read.certificate.bytes)
      ? read.certificate.bytes.toString()
      : read.certificate.value.toString(),
    key: read.key.export({ type: 'pkcs8', format: 'pem' }).toString(),
  };
  try {
    createSecureContext(contextOptions([pair], authorities));
  } catch (error) {
    throw refusal(`${certificate.variable} ${certificate.path} cannot be used: ${errorCode(error)}`);
  }
  return { pair, kind: read.key.asymmetricKeyType ?? 'unknown' };
}

function readAuthorities({ variable, path, files }: AuthorityFiles): string[] {
  const authorities = files.flatMap((file) => {
    const { bytes, value } = parse(file, 'certificate', (read) => new X509Certificate(read));
    return isPem(bytes) ? (bytes.toString('latin1').match(CERTIFICATE) ?? []) : [value.toString()];
  });
  if (authorities.length === 0) throw refusal(`${variable} ${path} holds no certificate`);
  return authorities;
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;

function parse<T>(file: NamedFile, what: string, parser: (bytes: Buffer) => T): { bytes: Buffer; value: T } {
  const bytes = readRegularFile(file.variable, file.path);
  try {
    return { bytes, value: parser(bytes) };
  } catch (error) {
    throw refusal(`${file.variable} ${file.path} holds no ${what} that can be read: ${errorCode(error)}`);
  }
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory).filter((name) => !name.startsWith('.'));
  } catch (error) {
    throw new Failure(EXIT.systemCallFailed, `unable to read CADIR ${directory}: ${errorCode(error)}`);
  }
}

function parseKey(bytes: Buffer): KeyObject {
  if (isPem(bytes)) {
    // OpenSSL's own word for it depends on the version, and none of them is this one.
    if (bytes.includes('ENCRYPTED')) throw new Error('it is encrypted');
    return createPrivateKey(bytes);
  }
  for (const type of ['pkcs8', 'sec1'] as const) {
    try {
      return createPrivateKey({ key: bytes, format: 'der', type });
    } catch {
      // Another kind of DER then.
    }
  }
  return createPrivateKey({ key: bytes, format: 'der', type: 'pkcs1' });
}

function isPem(bytes: Buffer): boolean {
  return bytes.includes('-----BEGIN ');
}

function refusal(why: string): Failure {
  return new Failure(EXIT.wrongUsage, `unable to set up TLS: ${why}`);
}

/** The environment without the variables that are for a TLS server alone, as s6-ucspitlsd cleans it. */
export function withoutTlsVariables(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const kept = Object.entries(environment).filter(([name]) => !TLS_VARIABLE.test(name));
  return Object.fromEntries(kept);
}

const TLS_VARIABLE = /^(?:(?:KEY|CERT)FILE[2-9]?(?::.*)?|CADIR|CAFILE|TLS_[UG]ID)$/s;
