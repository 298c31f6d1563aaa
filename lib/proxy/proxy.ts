import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { type Endpoints, endpointsIn, endpointsOf, withoutUcspiTcp } from '../net/endpoints.ts';
import type { ProxyProtocolSettings } from '../net/options.ts';
import { readProxyHeader } from '../net/proxy-protocol/header.ts';
import { deferred } from '../program/deferred.ts';
import { EXIT, errorCode } from '../program/failure.ts';
import { refuseInspector } from '../program/inspector.ts';
import { type Identity, type Privileges, privilegesOf } from '../program/privileges.ts';
import { createReporter, type Reporter } from '../program/reporter.ts';
import { passSignals } from '../program/signals.ts';
import type { SessionTerms } from '../session/options.ts';
import { createTlsOffer, type HandshakeListener, startTls } from '../session/own-tls.ts';
import { startSession, type TlsClient } from '../session/session.ts';
import { REPLIES } from '../smtp/reply.ts';
import { environmentForSmtpd, smtpdFor } from '../smtpd/environment.ts';
import { applyEnvelope } from '../smtpd/message-options.ts';
import type { SmtpdSettings } from '../smtpd/options.ts';
import type { MessageSettings } from '../smtpd/with-envelope.ts';
import { byteStreamOf } from '../stream/byte-stream.ts';
import { hangUp } from '../stream/hang-up.ts';
import { openStandardConnection } from '../stream/standard-connection.ts';
import { readCredentials } from '../tls/credentials.ts';
import { createTlsServer, type TlsServer } from '../tls/handshake.ts';
import type { SmtpTlsSettings, TlsSettings } from '../tls/options.ts';
import { readTicketKeys } from '../tls/ticket-keys.ts';
import { describeTls } from '../ucspi/control.ts';
import { remoteAddress } from '../ucspi/environment.ts';

/** The command line of the proxy for one connection. */
export interface ProxyOptions extends SmtpdSettings, TlsSettings, SmtpTlsSettings, ProxyProtocolSettings {
  /** The name at the start of each message. */
  readonly program: string;
  /** 0 to 2, see `createReporter`. */
  readonly verbosity: number;
  readonly terms: SessionTerms;
  readonly envelope: MessageSettings;
  /** The user and group to change to once keys and certificates are read. */
  readonly identity: Identity;
}

/**
 * Adds STARTTLS to an smtpd for one connection, on descriptors 0 and 1, and does TLS itself.
 *
 * @returns the exit status of smtpd; 111 when there was no session.
 * @throws Failure (100, 111) when keys or certificates cannot be used or privileges cannot be dropped; (111) see
 * `refuseInspector`. The client has been sent a 421 then, unless TLS is implicit.
 */
export async function runProxy(options: ProxyOptions, environment: NodeJS.ProcessEnv): Promise<number> {
  const report = createReporter(options.program, options.verbosity);
  const tls = await setUp(options, environment);

  const { promise: stopping, resolve: stop } = deferred();
  let onSignal: (signal: NodeJS.Signals) => void = () => stop();
  passSignals((signal) => onSignal(signal));

  const connection = openStandardConnection();
  connection.on('error', () => {});
  let ends: Endpoints | undefined;
  let tlsClient: TlsClient | undefined;
  const listener = reportTls(report, () => ends, environment);
  try {
    ends = await readEndpoints(connection, options, environment, stopping);
    if (options.implicitTls) {
      tlsClient = await startTls(connection, tls, listener, stopping).catch((error: unknown) => {
        throw new Error(`unable to start TLS with ${remoteName(ends, environment)}: ${errorCode(error)}`);
      });
    }
  } catch (error) {
    report.warning(errorCode(error));
    connection.destroy();
    return EXIT.systemCallFailed;
  }

  const client = tlsClient ?? byteStreamOf(connection);
  const start = smtpdFor(options.smtpd, ends, environmentOf(ends, environment), options.localHost);
  const startSmtpd = await applyEnvelope(start, options.envelope, {
    clientAddress: ends?.remote.ip ?? environment.TCPREMOTEIP,
    report,
  });
  const session = startSession({
    terms: options.terms,
    client,
    tls: tlsClient === undefined ? createTlsOffer(connection, client, () => tls, listener) : undefined,
    startSmtpd: (more) => startSmtpd({ ...tlsClient?.environment, ...more }),
    report,
  });
  onSignal = session.terminate;
  const { status } = await session.ended;
  return status;
}

/** Reads keys and certificates, and drops privileges. */
async function setUp(options: ProxyOptions, environment: NodeJS.ProcessEnv): Promise<TlsServer> {
  const privileges = privilegesOf(options.identity);
  let tls: TlsServer;
  try {
    refuseInspector();
    tls = prepareTls(options, environment);
    privileges.drop();
  } catch (error) {
    if (!options.implicitTls) await refuseClient(privileges);
    throw error;
  }
  return tls;
}

/**
 * Sends the client a 421 and closes the connection, within the time limit of `hangUp`. Privileges are dropped first,
 * because input from the client is read.
 */
async function refuseClient(privileges: Privileges): Promise<void> {
  try {
    privileges.drop();
    const connection = openStandardConnection();
    const client = byteStreamOf(connection);
    client.sink.write(REPLIES.notSetUp);
    await hangUp(client);
  } catch {
    // The caller reports the first failure.
  }
}

function prepareTls(options: ProxyOptions, environment: NodeJS.ProcessEnv): TlsServer {
  const server = createTlsServer(readCredentials(environment, options.credentials), options.handshake);
  if (options.ticketKeysFile !== undefined) server.setTicketKeys(readTicketKeys(options.ticketKeysFile));
  return server;
}

/**
 * The ends of the client's connection: from the PROXY header, otherwise from the environment, otherwise from the
 * system. Undefined when they are unknown.
 *
 * @throws Error when a PROXY header is required and is missing, invalid, or not from a trusted proxy.
 */
async function readEndpoints(
  connection: Duplex,
  { proxies }: ProxyOptions,
  environment: NodeJS.ProcessEnv,
  abort: Promise<void>,
): Promise<Endpoints | undefined> {
  const ends =
    endpointsIn(environment, 'TCP') ?? (connection instanceof Socket ? endpointsOf(connection) : undefined);
  if (proxies === undefined) return ends;
  const ip = ends?.remote.ip ?? 'an unknown address';
  if (!proxies.contains(ip))
    throw new Error(`unable to accept the connection from ${ip}: not a trusted proxy`);
  try {
    return (await readProxyHeader(connection, abort)) ?? ends;
  } catch (error) {
    throw new Error(`unable to read the PROXY header of ${ip}: ${errorCode(error)}`);
  }
}

/** The environment of smtpd. Variables about the client stay, unless the environment describes another client. */
function environmentOf(ends: Endpoints | undefined, environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const kept = environmentForSmtpd(environment);
  const isSame = ends === undefined || ends.remote.ip === environment.TCPREMOTEIP;
  return isSame ? kept : withoutUcspiTcp(kept);
}

/** The address of the client, for messages. */
function remoteName(ends: Endpoints | undefined, environment: NodeJS.ProcessEnv): string {
  return ends?.remote.ip ?? remoteAddress(environment);
}

function reportTls(
  report: Reporter,
  ends: () => Endpoints | undefined,
  environment: NodeJS.ProcessEnv,
): HandshakeListener {
  const name = (): string => remoteName(ends(), environment);
  return {
    done: (variables) => report.info(`TLS with ${name()}: ${describeTls(variables)}`),
    failed: () => {},
    exceeded: (why) => report.warning(`${name()}: ${why}, closing`),
  };
}
