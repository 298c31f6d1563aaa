import { readFileSync } from 'node:fs';
import { findAuthorities, findPairs, type KeyPair, readAuthorities, readPairs } from './credentials.ts';

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
 * @throws Failure (100, or 111 when a file cannot be read) that names the variable, the file and the fault.
 */
export function readClientCredentials(environment: NodeJS.ProcessEnv): ClientCredentials {
  const { CERTFILE, KEYFILE, CAFILE, CADIR } = environment;
  const given =
    CAFILE === undefined && CADIR === undefined ? undefined : readAuthorities(findAuthorities(environment));
  const pairs = CERTFILE === undefined && KEYFILE === undefined ? [] : findPairs(environment, '');
  return { pairs: readPairs(pairs, given ?? []), authorities: given ?? systemAuthorities() };
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
