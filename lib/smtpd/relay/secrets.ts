import type { Credentials } from '../../smtp/auth.ts';
import {
  type ClientCredentials,
  clientCredentialPaths,
  readClientCredentials,
} from '../../tls/client-credentials.ts';
import { readCredentialsFile } from './credentials-file.ts';

/** What a resident program reads for servers that URLs name: plain data, so that it can be sent as JSON. */
export interface RelaySecrets {
  /** Users and passwords, by host in lower case. */
  readonly credentials: readonly (readonly [host: string, credentials: Credentials])[];
  readonly tls: ClientCredentials;
}

/** Where they come from. */
export interface RelaySecretsOptions {
  readonly environment: NodeJS.ProcessEnv;
  /** See `readCredentialsFile`; undefined for no AUTH. */
  readonly credentialsFile: string | undefined;
}

/** CAFILE and the others are about the clients of such a program; these are RELAY_CAFILE and so on. */
const PREFIX = 'RELAY_';

/** Reads them. @throws Failure (100, 111) that names the file and the fault, and repeats nothing of it. */
export function readRelaySecrets({ environment, credentialsFile }: RelaySecretsOptions): RelaySecrets {
  return {
    credentials: credentialsFile === undefined ? [] : [...readCredentialsFile(credentialsFile)],
    tls: readClientCredentials(environment, PREFIX),
  };
}

/** The paths of all these files, for watching them. @throws Failure as `clientCredentialPaths`. */
export function relaySecretPaths({ environment, credentialsFile }: RelaySecretsOptions): readonly string[] {
  const paths = clientCredentialPaths(environment, PREFIX);
  return credentialsFile === undefined ? paths : [...paths, credentialsFile];
}
