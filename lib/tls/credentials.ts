import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createSecureContext, type SecureContext, type SecureContextOptions } from 'node:tls';
import { EXIT, errorCode, Failure } from '../program/failure.ts';

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

/** The keys and certificates of a server. */
export interface Credentials {
  /** For clients that name no server, or one that is not known. */
  readonly standard: SecureContextOptions | undefined;
  /** By server name, in lower case; `*.` stands for any first label. */
  readonly byName: ReadonlyMap<string, SecureContext>;
}

/** What holds for every TLS session, whatever the certificate. */
export const TLS_TERMS: SecureContextOptions = {
  minVersion: 'TLSv1.2',
  ciphers: CIPHERS,
  honorCipherOrder: true,
};

/** Which variables of the environment are to be read. */
export interface CredentialOptions {
  /** 0 for KEYFILE and CERTFILE; 1 for KEYFILE:name and CERTFILE:name too; 2 for only those. */
  readonly sniLevel: number;
  /** Whether client certificates will be asked for, and CAFILE or CADIR be needed. */
  readonly asksClients: boolean;
}

/**
 * Reads keys and certificates, as the variables of s6-tlsd-io name them: KEYFILE and CERTFILE,
 * KEYFILE:name and CERTFILE:name, CAFILE or CADIR. Files are in PEM or DER; CAFILE is in PEM.
 *
 * @throws Failure (100, or 111 when a file cannot be read) that names the variable, the file, and what is
 * wrong with it.
 */
export function loadCredentials(environment: NodeJS.ProcessEnv, options: CredentialOptions): Credentials {
  const authorities = options.asksClients ? loadAuthorities(environment) : undefined;
  const byName = new Map<string, SecureContext>();
  if (options.sniLevel > 0) {
    for (const name of Object.keys(environment)) {
      const suffix = /^KEYFILE(:.+)$/.exec(name)?.[1];
      if (suffix !== undefined) {
        const pair = loadPair(environment, suffix, authorities);
        byName.set(suffix.slice(1).toLowerCase(), createSecureContext(pair));
      }
    }
  }
  if (options.sniLevel < 2) return { standard: loadPair(environment, '', authorities), byName };
  if (byName.size === 0) throw refusal('no variable KEYFILE:name is set');
  return { standard: undefined, byName };
}

/**
 * Finds what to show to a client that named a server (SNI, RFC 6066 section 3).
 *
 * @returns undefined when there is nothing for that name in particular.
 */
export function credentialsFor(credentials: Credentials, name: string): SecureContext | undefined {
  const exact = name.toLowerCase();
  return credentials.byName.get(exact) ?? credentials.byName.get(exact.replace(/^[^.]+/, '*'));
}

function loadPair(
  environment: NodeJS.ProcessEnv,
  suffix: string,
  authorities: string[] | undefined,
): SecureContextOptions {
  const certFile = readVariable(environment, `CERTFILE${suffix}`);
  const keyFile = readVariable(environment, `KEYFILE${suffix}`);
  const chain = parse(certFile, 'certificate', (bytes) => new X509Certificate(bytes));
  const key = parse(keyFile, 'private key', parseKey);
  if (!chain.value.checkPrivateKey(key.value)) {
    throw refusal(
      `${keyFile.variable} ${keyFile.path} is not the key of ${certFile.variable} ${certFile.path}`,
    );
  }
  const pair: SecureContextOptions = {
    ...TLS_TERMS,
    // A PEM file may hold the chain too, of which X509Certificate keeps the first alone.
    cert: isPem(chain.bytes) ? chain.bytes : chain.value.toString(),
    key: key.value.export({ type: 'pkcs8', format: 'pem' }),
    ...(authorities === undefined ? {} : { ca: authorities }),
  };
  try {
    createSecureContext(pair);
    return pair;
  } catch (error) {
    throw refusal(`${certFile.variable} ${certFile.path} cannot be used: ${errorCode(error)}`);
  }
}

function loadAuthorities(environment: NodeJS.ProcessEnv): string[] {
  const variable = environment.CAFILE !== undefined ? 'CAFILE' : 'CADIR';
  const { path } = readVariable(environment, variable);
  const paths = variable === 'CAFILE' ? [path] : list(path).map((name) => join(path, name));
  const authorities = paths.flatMap((file) => {
    const { bytes, value } = parse(
      { variable, path: file },
      'certificate',
      (read) => new X509Certificate(read),
    );
    return isPem(bytes) ? (bytes.toString('latin1').match(CERTIFICATE) ?? []) : [value.toString()];
  });
  if (authorities.length === 0) throw refusal(`${variable} ${path} holds no certificate`);
  return authorities;
}

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;

/** A file, and the variable that named it. */
interface NamedFile {
  readonly variable: string;
  readonly path: string;
}

function readVariable(environment: NodeJS.ProcessEnv, variable: string): NamedFile {
  const path = environment[variable];
  if (path === undefined || path === '') throw refusal(`${variable} is not set`);
  return { variable, path };
}

function parse<T>(file: NamedFile, what: string, parser: (bytes: Buffer) => T): { bytes: Buffer; value: T } {
  const bytes = readNamed(file);
  try {
    return { bytes, value: parser(bytes) };
  } catch (error) {
    throw refusal(`${file.variable} ${file.path} holds no ${what} that can be read: ${errorCode(error)}`);
  }
}

function readNamed({ variable, path }: NamedFile): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new Failure(EXIT.systemCallFailed, `unable to read ${variable} ${path}: ${errorCode(error)}`);
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

const TLS_VARIABLE = /^(?:(?:KEY|CERT)FILE(?::.*)?|CADIR|CAFILE|TLS_[UG]ID)$/s;
