import type { Credentials } from '../../smtp/auth.ts';
import {
  type ClientCredentials,
  clientCredentialPaths,
  readClientCredentials,
} from '../../tls/client-credentials.ts';
import { readCredentialsFile } from './credentials-file.ts';
import { parseRouteTable, readRoutesFile } from './route-table.ts';

/** What a resident program reads for servers that URLs and routes name: plain data, so that it can be sent as JSON. */
export interface RelaySecrets {
  /** Users and passwords, by host in lower case. */
  readonly credentials: readonly (readonly [host: string, credentials: Credentials])[];
  readonly tls: ClientCredentials;
  /** The text of the file of routes, which is valid; undefined if there is none. */
  readonly routes?: string;
}

/** Where they come from. */
export interface RelaySecretsOptions {
  readonly environment: NodeJS.ProcessEnv;
  /** See `readCredentialsFile`; undefined for no AUTH. */
  readonly credentialsFile: string | undefined;
  /** The file of routes; undefined for none. */
  readonly routesFile: string | undefined;
  /** See `parseRouteTable`. */
  readonly pins: readonly string[];
}

/** CAFILE and the others are about the clients of such a program; these are RELAY_CAFILE and so on. */
const PREFIX = 'RELAY_';

/** Reads them. @throws Failure (100, 111) that names the file and the fault, and repeats nothing secret of it. */
export function readRelaySecrets(options: RelaySecretsOptions): RelaySecrets {
  const { environment, credentialsFile, routesFile } = options;
  const routes = routesFile === undefined ? undefined : readRoutesFile(routesFile);
  if (routes !== undefined) parseRouteTable(routes, routesFile ?? '', options.pins);
  return {
    ...(routes !== undefined && { routes }),
    credentials: credentialsFile === undefined ? [] : [...readCredentialsFile(credentialsFile)],
    tls: readClientCredentials(environment, PREFIX),
  };
}

/** The paths of all these files, for watching them. @throws Failure as `clientCredentialPaths`. */
export function relaySecretPaths(options: RelaySecretsOptions): readonly string[] {
  const { environment, credentialsFile, routesFile } = options;
  const files = [credentialsFile, routesFile].filter((path) => path !== undefined);
  return [...clientCredentialPaths(environment, PREFIX), ...files];
}
