import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createSecureContext } from 'node:tls';
import { explain } from '../program/explain.ts';
import { EXIT, errorCode, Failure } from '../program/failure.ts';
import { parseChain, weakKeys } from './certificate-faults.ts';
import { contextOptions, type KeyPair } from './context.ts';
import { readRegularFile } from './file.ts';

/**
 * The keys and certificates of a server. Plain data, so that one process can read them and pass them to others
 * as JSON.
 */
export interface CredentialFiles {
  /** For clients that send no server name or an unknown one; empty when there is none for them. */
  readonly standard: readonly KeyPair[];
  /** By server name, in lower case; `*.` matches any first label. No two pairs of a name have the same key type. */
  readonly byName: Readonly<Record<string, readonly KeyPair[]>>;
  /** The CA certificates, in PEM, that client certificates are verified against; empty when none is requested. */
  readonly authorities: readonly string[];
}

/** Selects the environment variables to read. */
export interface CredentialOptions {
  /** 0: KEYFILE and CERTFILE; 1: KEYFILE:name and CERTFILE:name as well; 2: only KEYFILE:name and CERTFILE:name. */
  readonly sniLevel: number;
  /** Whether client certificates are requested; CAFILE or CADIR is required then. */
  readonly asksClients: boolean;
}

/**
 * Reads the keys and certificates named by the variables of s6-tlsd-io: KEYFILE and CERTFILE, KEYFILE:name and
 * CERTFILE:name, CAFILE or CADIR. Files are in PEM or DER; CAFILE is in PEM. They are regular files or links to
 * regular files.
 *
 * Each pair may have alternatives with other key types, KEYFILE2 and CERTFILE2 to KEYFILE9 and CERTFILE9, with
 * or without `:name`: TLS uses the one that the client prefers.
 *
 * @throws Failure (100, or 111 when a file cannot be read) that names the variable, the file and the fault.
 */
export function readCredentials(environment: NodeJS.ProcessEnv, options: CredentialOptions): CredentialFiles {
  const { standard, byName, authorities } = findFiles(environment, options);
  const read = { authorities: authorities === undefined ? [] : readAuthorities(authorities) };
  const named = [...byName].map(([name, pairs]) => [name, readPairs(pairs, read.authorities)] as const);
  return { ...read, standard: readPairs(standard, read.authorities), byName: Object.fromEntries(named) };
}

/**
 * The paths of all files that `readCredentials` reads, for watching them; with CADIR, the folder and its current
 * files.
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
 * Finds the entry for a server name (SNI, RFC 6066 section 3).
 *
 * @param byName by server name, as in `CredentialFiles`.
 * @returns undefined when neither the name nor a wildcard matches.
 */
export function credentialsFor<T>(byName: ReadonlyMap<string, T>, name: string): T | undefined {
  const exact = name.toLowerCase();
  return byName.get(exact) ?? byName.get(exact.replace(/^[^.]+/, '*'));
}

/** A file, and the variable that names it. */
export interface NamedFile {
  readonly variable: string;
  readonly path: string;
}

/** The files of a key and its certificate. */
export interface FilePair {
  readonly certificate: NamedFile;
  readonly key: NamedFile;
}

/** The files of CA certificates for client certificates: CAFILE, or all files in CADIR. */
export interface AuthorityFiles extends NamedFile {
  readonly files: readonly NamedFile[];
}

/** Determines from the environment which files to read. @throws Failure as `readCredentials` does. */
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

/**
 * Finds the variables of a pair and its alternatives. The first pair is required; of the others, both variables or
 * neither.
 *
 * @param suffix empty, or ":name".
 * @param prefix of the names of the variables.
 * @throws Failure (100) that names the variable that is missing.
 */
export function findPairs(environment: NodeJS.ProcessEnv, suffix: string, prefix = ''): FilePair[] {
  const others = [...'23456789'].filter(
    (number) =>
      environment[`${prefix}CERTFILE${number}${suffix}`] !== undefined ||
      environment[`${prefix}KEYFILE${number}${suffix}`] !== undefined,
  );
  return ['', ...others].map((number) => ({
    certificate: readVariable(environment, `${prefix}CERTFILE${number}${suffix}`),
    key: readVariable(environment, `${prefix}KEYFILE${number}${suffix}`),
  }));
}

/**
 * Finds the files of CAFILE, else CADIR.
 *
 * @param prefix of the names of the variables.
 * @throws Failure (100, 111) that names the variable.
 */
export function findAuthorities(environment: NodeJS.ProcessEnv, prefix = ''): AuthorityFiles {
  const isFile = environment[`${prefix}CAFILE`] !== undefined;
  const variable = `${prefix}${isFile ? 'CAFILE' : 'CADIR'}`;
  const file = readVariable(environment, variable);
  const { path } = file;
  return {
    ...file,
    files: isFile ? [file] : list(file).map((name) => ({ variable, path: join(path, name) })),
  };
}

function readVariable(environment: NodeJS.ProcessEnv, variable: string): NamedFile {
  const path = environment[variable];
  if (path === undefined || path === '') throw refusal(`${variable} is not set`);
  return { variable, path };
}

/**
 * Reads pairs that are offered together.
 *
 * @param authorities in PEM.
 * @throws Failure (100, 111) that names the variable, the file and the fault.
 */
export function readPairs(files: readonly FilePair[], authorities: readonly string[]): KeyPair[] {
  const kinds = new Map<string, NamedFile>();
  return files.map((file) => {
    const { pair, kind } = readPair(file, authorities);
    const other = kinds.get(kind);
    if (other !== undefined) {
      // OpenSSL keeps one pair per key type, the last.
      const both = `${other.variable} ${other.path} and ${file.key.variable} ${file.key.path}`;
      throw refusal(`${both} are keys of the same type (${kind})`);
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
    // A PEM file may also contain the chain; X509Certificate keeps only its first certificate.
    certificate: isPem(read.certificate.bytes)
      ? read.certificate.bytes.toString()
      : read.certificate.value.toString(),
    key: read.key.export({ type: 'pkcs8', format: 'pem' }).toString(),
    path: certificate.path,
  };
  try {
    createSecureContext(contextOptions([pair], authorities));
  } catch (error) {
    // OpenSSL's code for a key that is too small does not name its length.
    const why = [errorCode(error), ...weakKeys(parseChain(pair.certificate))].join(': ');
    throw refusal(`${certificate.variable} ${certificate.path} cannot be used: ${why}`);
  }
  return { pair, kind: read.key.asymmetricKeyType ?? 'unknown' };
}

/** Reads CA certificates, in PEM. @throws Failure (100, 111) that names the variable, the file and the fault. */
export function readAuthorities({ variable, path, files }: AuthorityFiles): string[] {
  const authorities = files.flatMap((file) => {
    const { bytes, value } = parse(file, 'certificate', (read) => new X509Certificate(read));
    return isPem(bytes) ? (bytes.toString('latin1').match(CERTIFICATE) ?? []) : [value.toString()];
  });
  if (authorities.length === 0) throw refusal(`${variable} ${path} contains no certificate`);
  return authorities;
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;

function parse<T>(file: NamedFile, what: string, parser: (bytes: Buffer) => T): { bytes: Buffer; value: T } {
  const bytes = readRegularFile(file.variable, file.path);
  try {
    return { bytes, value: parser(bytes) };
  } catch (error) {
    throw refusal(
      `${file.variable} ${file.path} contains no readable ${what}: ${errorCode(error)}${otherContent(bytes, what)}`,
    );
  }
}

/** What is in a file of another kind, such as a certificate instead of a key, for the end of a message. */
function otherContent(bytes: Buffer, what: string): string {
  const labels = Array.from(bytes.toString('latin1').matchAll(PEM_LABEL), ([, label = '']) => label);
  if (labels.length === 0) return ' (it is not in PEM)';
  if (labels.some((label) => label.endsWith(what.toUpperCase()))) return '';
  return ` (it contains ${[...new Set(labels)].slice(0, MAX_LABELS).join(', ')})`;
}

const PEM_LABEL = /-----BEGIN ([A-Z0-9 ]{1,40})-----/g;
const MAX_LABELS = 3;

function list({ variable, path }: NamedFile): string[] {
  try {
    return readdirSync(path).filter((name) => !name.startsWith('.'));
  } catch (error) {
    throw new Failure(EXIT.systemCallFailed, `unable to read ${variable} ${path}: ${explain('read', error)}`);
  }
}

function parseKey(bytes: Buffer): KeyObject {
  if (isPem(bytes)) {
    // OpenSSL's error code for this depends on its version, and none of them mentions encryption.
    if (bytes.includes('ENCRYPTED')) throw new Error('it is encrypted');
    return createPrivateKey(bytes);
  }
  for (const type of ['pkcs8', 'sec1'] as const) {
    try {
      return createPrivateKey({ key: bytes, format: 'der', type });
    } catch {
      // Try the next encoding.
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

/**
 * The environment without the variables that are meant only for a TLS server, as s6-ucspitlsd removes them, or for its
 * connections to other servers.
 */
export function withoutTlsVariables(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const kept = Object.entries(environment).filter(([name]) => !TLS_VARIABLE.test(name));
  return Object.fromEntries(kept);
}

const TLS_VARIABLE =
  /^(?:(?:KEY|CERT)FILE[2-9]?(?::.*)?|RELAY_(?:KEY|CERT)FILE[2-9]?|(?:RELAY_)?CA(?:DIR|FILE)|TLS_[UG]ID)$/s;
