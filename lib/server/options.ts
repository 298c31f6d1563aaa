/** The command lines of the server and of the proxy for one connection, which have most options in common. */

import { availableParallelism } from 'node:os';
import { listenHost, parseHostPort, parseNetworks, parsePort } from '../net/address.ts';
import { listOption, numberOption, type OptionValues, usage } from '../program/options.ts';
import { type Identity, readIdentity } from '../program/privileges.ts';
import type { ProxyOptions } from '../proxy/proxy.ts';
import { checkSmtpdCommand } from '../smtpd/command.ts';
import type { Smtpd } from '../smtpd/environment.ts';
import type { HandshakeOptions } from '../tls/handshake.ts';
import type { ConnectionContext } from './connection/connection.ts';
import type { ListenPoint } from './listen/listeners.ts';
import type { ServerOptions } from './server.ts';

const SECONDS = { least: 1, most: 2_000_000 };
const MANY = 1_000_000;

/**
 * Reads the command line of the server.
 *
 * @param words what follows the options.
 * @throws Failure (100) that says what is wrong with it.
 */
export function readServerOptions(
  program: string,
  values: OptionValues,
  words: readonly string[],
  environment: NodeJS.ProcessEnv,
): ServerOptions {
  // First: with -v as a flag, as tcpserver has it, the host is taken for the level and the rest is malformed.
  const verbosity = readVerbosity(values);
  const { listen, command } = readListen(values, words);
  const workers = numberOption(values, 'workers', { least: 0, most: 1024, standard: 1 });
  return {
    ...readCommon(program, values, command, environment),
    verbosity,
    listen,
    backlog: numberOption(values, 'backlog', { least: 1, most: 65535, standard: 128 }),
    connections: numberOption(values, 'connections', { least: 1, most: MANY, standard: 400 }),
    perAddress: numberOption(values, 'per-address', {
      least: 1,
      most: MANY,
      standard: Number.POSITIVE_INFINITY,
    }),
    grace: numberOption(values, 'grace', { ...SECONDS, least: 0, standard: 30 }) * 1000,
    workers: workers === 0 ? availableParallelism() : workers,
    metricsAt: readAddress(values, 'metrics'),
    printsPorts: values['print-port'] !== undefined,
    notifyDescriptor: readNotifyDescriptor(values),
  };
}

/**
 * Reads the command line of the proxy for one connection.
 *
 * @param words the smtpd and its arguments.
 * @throws Failure (100) that says what is wrong with it.
 */
export function readProxyOptions(
  program: string,
  values: OptionValues,
  words: readonly string[],
  environment: NodeJS.ProcessEnv,
): ProxyOptions {
  return { ...readCommon(program, values, words, environment), verbosity: readVerbosity(values) };
}

function readCommon(
  program: string,
  values: OptionValues,
  command: readonly string[],
  environment: NodeJS.ProcessEnv,
): Omit<ProxyOptions, 'verbosity'> {
  const clientCertificate = readClientCertificate(values);
  return {
    program,
    smtpd: readSmtpd(program, values, command),
    localHost: stringOption(values, 'local-name'),
    terms: readTerms(values),
    handshake: {
      clientCertificate,
      timeout: numberOption(values, 'K', { least: 0, most: 2 ** 31 - 1, standard: 30_000 }),
      alpn: readAlpn(values),
    },
    credentials: {
      sniLevel: numberOption(values, 'k', { least: 0, most: 2, standard: 0 }),
      asksClients: clientCertificate !== 'none',
    },
    identity: readUser(values, environment),
    ticketKeysFile: stringOption(values, 'ticket-keys'),
  };
}

function readListen(
  values: OptionValues,
  words: readonly string[],
): { listen: ServerOptions['listen']; command: readonly string[] } {
  const [host, port, ...command] = words;
  if (host === undefined) throw usage('no host and port to listen on');
  const others = listOption(values, 'listen').map((text) => listenPoint(parseHostPort(text)));
  if (host === '-') {
    if (others.length > 0) throw usage('--listen and - contradict each other');
    return { listen: 'inherited', command: words.slice(1) };
  }
  if (port === undefined) throw usage(`no port to listen on at ${host}`);
  return { listen: [listenPoint({ host, port: parsePort(port) }), ...others], command };
}

function listenPoint({ host, port }: { host: string; port: number }): ListenPoint {
  return { host: listenHost(host), port };
}

function readSmtpd(program: string, values: OptionValues, command: readonly string[]): Smtpd {
  const to = readAddress(values, 'to');
  const sendProxy = stringOption(values, 'send-proxy');
  if (sendProxy !== undefined && sendProxy !== 'v1' && sendProxy !== 'v2') {
    throw usage(`--send-proxy takes v1 or v2, not ${sendProxy}`);
  }
  if (to === undefined) {
    if (sendProxy !== undefined) throw usage('--send-proxy is for --to');
    checkSmtpdCommand(command, program);
    return command;
  }
  if (command.length > 0) throw usage(`--to takes the place of an smtpd, but there is ${command[0]}`);
  return { ...to, sendProxy };
}

function readTerms(values: OptionValues): ConnectionContext['terms'] {
  if (values['require-tls'] === true && values['plaintext-auth'] === true) {
    throw usage('--require-tls and --plaintext-auth contradict each other');
  }
  const relayTimeout = numberOption(values, 'relay-timeout', { ...SECONDS, standard: 0 });
  return {
    requireTls: values['require-tls'] === true,
    plaintextAuth: values['plaintext-auth'] === true,
    errorLimit: numberOption(values, 'error-limit', { least: 1, most: MANY, standard: 100 }),
    fresh: values.fresh === true,
    idleTimeout: numberOption(values, 'timeout', { ...SECONDS, standard: 300 }) * 1000,
    relayIdleTimeout: relayTimeout === 0 ? undefined : relayTimeout * 1000,
    implicitTls: values['implicit-tls'] === true,
    proxies: readProxies(values),
  };
}

function readClientCertificate(values: OptionValues): HandshakeOptions['clientCertificate'] {
  if (values.Y !== undefined && values.y !== undefined) throw usage('-Y and -y contradict each other');
  if (values.y !== undefined) return 'required';
  return values.Y === undefined ? 'none' : 'optional';
}

function readAlpn(values: OptionValues): string | undefined {
  const protocol = stringOption(values, 'alpn');
  if (protocol === '') throw usage('--alpn takes the name of a protocol');
  return protocol;
}

function readVerbosity(values: OptionValues): number {
  if (values.quiet === undefined)
    return numberOption(values, 'verbosity', { least: 0, most: 9, standard: 1 });
  if (values.verbosity !== undefined) throw usage('-q and -v contradict each other');
  return 0;
}

function readUser(values: OptionValues, environment: NodeJS.ProcessEnv): Identity {
  if (values['user-from-environment'] === undefined) {
    return { uid: readId(values, 'uid'), gid: readId(values, 'gid'), groups: undefined };
  }
  if (values.uid !== undefined || values.gid !== undefined) {
    throw usage('-U takes user and group from the environment: -u and -g contradict it');
  }
  return readIdentity(environment);
}

function readId(values: OptionValues, name: string): number | undefined {
  // The highest number means "no change" to the system.
  const id = numberOption(values, name, { least: 0, most: 2 ** 32 - 2, standard: -1 });
  return id === -1 ? undefined : id;
}

function readProxies(values: OptionValues): ConnectionContext['terms']['proxies'] {
  const networks = stringOption(values, 'proxy-protocol');
  return networks === undefined ? undefined : parseNetworks(networks);
}

function readNotifyDescriptor(values: OptionValues): number | undefined {
  const descriptor = numberOption(values, 'notify-fd', { least: 1, most: MANY, standard: 0 });
  return descriptor === 0 ? undefined : descriptor;
}

function readAddress(values: OptionValues, name: string): { host: string; port: number } | undefined {
  const text = stringOption(values, name);
  if (text === undefined) return undefined;
  const { host, port } = parseHostPort(text);
  return { host: listenHost(host), port };
}

function stringOption(values: OptionValues, name: string): string | undefined {
  const value = values[name];
  return typeof value === 'string' ? value : undefined;
}
