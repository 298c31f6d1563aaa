import { hostname } from 'node:os';
import { endpointsIn, withUcspiTcp } from '../net/endpoints.ts';
import { refuseInspector } from '../program/inspector.ts';
import { usage } from '../program/options.ts';
import { createReporter } from '../program/reporter.ts';
import { passSignals } from '../program/signals.ts';
import { startSession } from '../session/session.ts';
import { environmentForSmtpd } from '../smtpd/environment.ts';
import { credentialsForHost, readCredentialsFile } from '../smtpd/relay/credentials-file.ts';
import type { RelaySettings } from '../smtpd/relay/options.ts';
import { startRelayed } from '../smtpd/relay/relayed.ts';
import { parseRelayUrl } from '../smtpd/relay/url.ts';
import { proxyHeader } from '../smtpd/remote.ts';
import { openStandard } from '../stream/descriptor.ts';
import { createTlsClient } from '../tls/client.ts';
import { readClientCredentials } from '../tls/client-credentials.ts';

/** The command line of the relay. */
export interface RelayIoOptions extends RelaySettings {
  readonly url: string;
  /** The name at the start of each message. */
  readonly program: string;
  /** 0 to 2, see `createReporter`. */
  readonly verbosity: number;
}

/**
 * Passes the session of the client on descriptors 0 and 1 on to the server that a URL names.
 *
 * @returns the exit status: 0, or 111 when the server could not be had or was lost.
 * @throws Failure (100, 111) when the URL, keys, certificates or credentials cannot be used; (111) when descriptors 0 and
 * 1 are not connected to a client, and see `refuseInspector`.
 */
export async function runRelayIo(options: RelayIoOptions, given: NodeJS.ProcessEnv): Promise<number> {
  refuseInspector();
  const { program, url, verbosity, credentialsFile, sendProxy, pins, idleTimeout } = options;
  const target = parseRelayUrl(url);
  if (target.ways.some((way) => 'backup' in way)) {
    throw usage(
      `${url} is for routes by recipient, see --routes: MX records are those of the recipient's domain`,
    );
  }
  if (
    target.host === undefined &&
    pins.length === 0 &&
    target.ways.some((way) => 'mustVerify' in way && way.mustVerify)
  ) {
    throw usage(`${url} requires --pin: a Unix socket has no name to verify`);
  }
  if (target.ways.some((way) => 'ssh' in way) && (credentialsFile !== undefined || pins.length > 0)) {
    throw usage('--credentials and --pin have no effect with ssh://');
  }
  const byHost = credentialsFile === undefined ? new Map() : readCredentialsFile(credentialsFile);
  const tls = createTlsClient({
    credentials: readClientCredentials(given),
    pins,
    timeout: options.handshakeTimeout,
  });
  const environment = withUcspiTcp(given);
  const report = createReporter(program, verbosity);
  const session = startSession({
    client: openStandard(),
    // All of the session is the relay: there is no dialogue.
    tls: undefined,
    ...{ requireTls: false, plaintextAuth: true, errorLimit: 1, fresh: false, greetDelay: 0 },
    idleTimeout,
    relayIdleTimeout: options.relayIdleTimeout,
    report,
    startSmtpd: () =>
      startRelayed({
        target,
        ssh: {
          program: options.sshProgram,
          words: options.sshWords,
          environment: environmentForSmtpd(given),
        },
        tls,
        resolver: options.resolver,
        credentials: credentialsForHost(byHost, target.host),
        header: proxyHeader(sendProxy, endpointsIn(environment, 'TCP'), environment),
        localName: options.localName ?? hostname(),
        connectTimeout: options.connectTimeout,
        replyTimeout: idleTimeout,
        idleTimeout,
        report,
      }),
  });
  passSignals(session.terminate);
  const { status } = await session.ended;
  return status;
}
