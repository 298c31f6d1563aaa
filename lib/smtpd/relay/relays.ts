import { hostname } from 'node:os';
import type { Endpoints } from '../../net/endpoints.ts';
import { createTlsClient, type TlsClient } from '../../tls/client.ts';
import type { StartSmtpd } from '../program.ts';
import { type Backend, proxyHeader } from '../remote.ts';
import { type CredentialsByHost, credentialsForHost } from './credentials-file.ts';
import type { ReachSettings } from './options.ts';
import { type RelayedOptions, startRelayed } from './relayed.ts';
import type { RelaySecrets } from './secrets.ts';
import type { RelayTarget } from './url.ts';

/** A server that a URL names, in place of an smtpd, and how it is reached. */
export interface RelaySpec {
  readonly target: RelayTarget;
  readonly reach: ReachSettings;
  /** See `Backend`. */
  readonly sendProxy: Backend['sendProxy'];
}

/** The settings of a program that serves many clients. */
export interface RelaysOptions extends Pick<RelayedOptions, 'idleTimeout' | 'errorLimit'> {
  /** See `RelayedOptions`; undefined for the name that the system has. */
  readonly localName: string | undefined;
  /** Of a TLS handshake with a server, in milliseconds; 0 for no limit. */
  readonly handshakeTimeout: number;
  /** The whole environment of ssh. */
  readonly environment: NodeJS.ProcessEnv;
}

/** Events of one session. */
export type RelayEvents = Pick<RelayedOptions, 'notice' | 'report' | 'concluded'>;

/** Starts sessions with servers that URLs name. */
export interface Relays {
  /** Uses these from the next session on. To be called before the first. */
  renew(secrets: RelaySecrets): void;
  /** @param client the ends of the client's connection. */
  startFor(client: Endpoints, events: RelayEvents): StartSmtpd;
}

/**
 * The part of the idle timeout in which a server has to be reached. After all of it, the dialogue in front would end the
 * session, as one whose smtpd does not reply.
 */
const REACH_TIME = 0.9;

/** Creates what starts the sessions of a program that serves many clients. */
export function createRelays(spec: RelaySpec, options: RelaysOptions): Relays {
  const { target, reach, sendProxy } = spec;
  const { idleTimeout, handshakeTimeout } = options;
  let credentials: CredentialsByHost = new Map();
  let tls: TlsClient | undefined;
  let tlsSecrets = '';
  return {
    renew: (secrets) => {
      credentials = new Map(secrets.credentials);
      // The authorities of the system are hundreds, and parsed for each new client.
      const next = JSON.stringify(secrets.tls);
      if (next === tlsSecrets) return;
      tls = createTlsClient({ credentials: secrets.tls, pins: reach.pins, timeout: handshakeTimeout });
      tlsSecrets = next;
    },
    startFor: (client, events) => (tlsEnvironment) => {
      if (tls === undefined) throw new Error('there are no authorities yet');
      return startRelayed({
        ...events,
        target,
        credentials: credentialsForHost(credentials, target.host),
        tls,
        ssh: { program: reach.sshProgram, words: reach.sshWords, environment: options.environment },
        header: proxyHeader(sendProxy, client, tlsEnvironment),
        localName: options.localName ?? hostname(),
        connectTimeout: reach.connectTimeout,
        // For a backup MX, which is a route by recipient.
        resolver: undefined,
        replyTimeout: idleTimeout,
        reachTimeout: idleTimeout * REACH_TIME,
        idleTimeout,
        errorLimit: options.errorLimit,
      });
    },
  };
}
