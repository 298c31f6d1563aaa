import { readFileSync } from 'node:fs';
import type { KeyPair } from './context.ts';
import {
  type AuthorityFiles,
  type FilePair,
  findAuthorities,
  findPairs,
  readAuthorities,
  readPairs,
} from './credentials.ts';

/** The keys and certificates of a TLS client. */
export interface ClientCredentials {
  /** What it presents to a server that requests a certificate; empty for none. */
  readonly pairs: readonly KeyPair[];
  /** The CA certificates that servers are verified against, in PEM; undefined for those that Node contains. */
  readonly authorities: readonly string[] | undefined;
}

/**
 * Reads what the variables of s6-tlsc-io name, all of which are optional: CERTFILE and KEYFILE, CAFILE or CADIR.
 * Without the last two, servers are verified against the authorities of the system.
 *
 * @param prefix of the names of the variables, for a program that has others of these names.
 * @throws Failure (100, or 111 when a file cannot be read) that names the variable, the file and the fault.
 */
export function readClientCredentials(environment: NodeJS.ProcessEnv, prefix = ''): ClientCredentials {
  const { pairs, authorities } = findFiles(environment, prefix);
  const given = authorities === undefined ? undefined : readAuthorities(authorities);
  return { pairs: readPairs(pairs, given ?? []), authorities: given ?? systemAuthorities() };
}

/**
 * The paths of all files that `readClientCredentials` reads, for watching them; with CADIR, the directory and its current
 * files.
 *
 * @throws Failure as `readClientCredentials` does when a variable is missing or CADIR cannot be read.
 */
export function clientCredentialPaths(environment: NodeJS.ProcessEnv, prefix = ''): readonly string[] {
  const { pairs, authorities } = findFiles(environment, prefix);
  return [
    ...pairs.flatMap(({ certificate, key }) => [certificate.path, key.path]),
    ...(authorities === undefined
      ? SYSTEM_FILES
      : [authorities.path, ...authorities.files.map(({ path }) => path)]),
  ];
}

function findFiles(
  environment: NodeJS.ProcessEnv,
  prefix: string,
): { pairs: readonly FilePair[]; authorities: AuthorityFiles | undefined } {
  const isSet = (name: string): boolean => environment[`${prefix}${name}`] !== undefined;
  return {
    pairs: isSet('CERTFILE') || isSet('KEYFILE') ? findPairs(environment, '', prefix) : [],
    authorities: isSet('CAFILE') || isSet('CADIR') ? findAuthorities(environment, prefix) : undefined,
  };
}

/** Where systems have the authorities of the web: Debian and Alpine, Fedora, SUSE, the BSDs. */
const SYSTEM_FILES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/ssl/cert.pem',
];

/** The authorities of the system. They are renewed with it; those in Node are as old as the installed Node. */
function systemAuthorities(): readonly string[] | undefined {
  for (const path of SYSTEM_FILES) {
    try {
      return [readFileSync(path, 'latin1')];
    } catch {
      // The system has it elsewhere.
    }
  }
  return undefined;
}
