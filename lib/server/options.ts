/** The options of the server that are its own, and the sections of its `--help`. */

import { availableParallelism } from 'node:os';
import { addressOption, proxyProtocolOptions } from '../net/options.ts';
import { identityOptions } from '../program/identity.ts';
import {
  type HelpSection,
  listOption,
  numberOption,
  type OptionRow,
  type OptionValues,
  refuseBoth,
  usage,
} from '../program/options.ts';
import { quietRows, readVerbosity } from '../program/verbosity.ts';
import { SESSION_LIMITS, SESSION_RULES, sessionOptions } from '../session/options.ts';
import { messageOptions } from '../smtpd/message-options.ts';
import { srsPrefixedOptions } from '../smtpd/srs/options.ts';
import { HANDSHAKE_LIMITS, HANDSHAKE_RULES, smtpTlsOptions, tlsOptions } from '../tls/options.ts';
import type { ListenPoint } from './listen/listeners.ts';
import type { ServerOptions } from './server.ts';
import { serverSmtpdOptions } from './smtpd-options.ts';

const LISTENING: readonly OptionRow[] = [
  { name: 'listen', value: 'HOST:PORT', multiple: true, help: 'listen there too; repeatable' },
  {
    name: 'backlog',
    short: 'b',
    value: 'N',
    help: 'connections that may wait, in the system and here (128)',
  },
  { name: 'print-port', short: '1', help: 'print the port on stdout when listening' },
  { name: 'notify-fd', value: 'FD', help: 'write a newline to this descriptor when listening' },
];

const CONNECTION_LIMITS: readonly OptionRow[] = [
  {
    name: 'connections',
    short: 'c',
    value: 'N',
    help: 'connections that are served at once; others wait (400)',
  },
  {
    name: 'per-address',
    short: 'C',
    value: 'N',
    help: 'connections from one address, served and waiting (no limit)',
  },
];

/** When smtpd is started. */
const ON_DEMAND: OptionRow = {
  name: 'on-demand',
  help: 'start smtpd only when a client sends MAIL or another command that needs it',
};

const MAX_SMTPDS: OptionRow = {
  name: 'smtpds',
  value: 'N',
  help: 'smtpds that may run at once, with --on-demand (as many as connections)',
};

const NO_STARTTLS: OptionRow = {
  name: 'no-starttls',
  help: 'serve without TLS, and need no certificate; for clients on this host',
};

/** Options that have no effect without TLS. */
const FOR_TLS = [
  ...['require-tls', 'plaintext-auth', 'fresh', 'implicit-tls'],
  ...['k', 'Y', 'y', 'alpn', 'ticket-keys'],
];

const GRACE: OptionRow = {
  name: 'grace',
  value: 'SECONDS',
  help: 'time for sessions to end after SIGTERM (30)',
};

const WORKERS: OptionRow = {
  name: 'workers',
  value: 'N',
  help: 'processes that serve (1); 0 for one per core',
};

const METRICS: OptionRow = {
  name: 'metrics',
  value: 'HOST:PORT',
  help: 'serve metrics over HTTP, for Prometheus',
};

/** All options of the server, as `--help` shows them. */
export const SERVER_SECTIONS: readonly HelpSection[] = [
  { title: 'listening', rows: LISTENING },
  {
    title: 'limits',
    rows: [...CONNECTION_LIMITS, MAX_SMTPDS, ...SESSION_LIMITS, ...HANDSHAKE_LIMITS, GRACE],
  },
  {
    title: 'mail',
    rows: [
      ...SESSION_RULES,
      ON_DEMAND,
      ...serverSmtpdOptions.rows,
      ...proxyProtocolOptions.rows,
      ...messageOptions.rows,
    ],
  },
  { title: 'SRS', rows: srsPrefixedOptions.rows },
  { title: 'TLS', rows: [NO_STARTTLS, ...HANDSHAKE_RULES, ...smtpTlsOptions.rows] },
  { title: 'processes', rows: [WORKERS, ...identityOptions.rows] },
  { title: 'messages', rows: [...quietRows('2 sessions too, 3 all'), METRICS] },
];

const MANY = 1_000_000;

/** In milliseconds. An smtpd has timeouts of its own; a remote server may have none, or not read. */
const RELAY_IDLE_TIMEOUT = 3_600_000;

/**
 * Reads the command line of the server.
 *
 * @param words what follows the options.
 * @throws Failure (100) that names the error.
 */
export async function readServerOptions(
  program: string,
  values: OptionValues,
  words: readonly string[],
  environment: NodeJS.ProcessEnv,
): Promise<ServerOptions> {
  // First: with -v as a flag, as in tcpserver, the host would be read as the level and the rest be malformed.
  const verbosity = readVerbosity(values);
  const { listen, command } = await readListen(values, words);
  const smtpd = await serverSmtpdOptions.read(values, program, command);
  return {
    program,
    verbosity,
    listen,
    ...smtpd,
    envelope: messageOptions.read(values),
    srs: srsPrefixedOptions.read(values),
    ...(await proxyProtocolOptions.read(values)),
    ...tlsOptions.read(values),
    ...smtpTlsOptions.read(values),
    ...readOnDemand(values, 'reach' in smtpd.smtpd ? RELAY_IDLE_TIMEOUT : undefined),
    noStarttls: readNoStarttls(values),
    identity: identityOptions.read(values, environment),
    backlog: numberOption(values, 'backlog', { min: 1, max: 65535, default: 128 }),
    connections: numberOption(values, 'connections', { min: 1, max: MANY, default: 400 }),
    perAddress: numberOption(values, 'per-address', { min: 1, max: MANY, default: Number.POSITIVE_INFINITY }),
    grace: numberOption(values, 'grace', { min: 0, max: 2_000_000, default: 30 }) * 1000,
    workers: numberOption(values, 'workers', { min: 0, max: 1024, default: 1 }) || availableParallelism(),
    metricsAt: await addressOption(values, 'metrics'),
    printsPorts: values['print-port'] !== undefined,
    notifyDescriptor: numberOption(values, 'notify-fd', { min: 1, max: MANY, default: undefined }),
  };
}

function readNoStarttls(values: OptionValues): boolean {
  for (const name of FOR_TLS) refuseBoth(values, 'no-starttls', name);
  return values['no-starttls'] === true;
}

/**
 * A session with an smtpd on demand starts another one in TLS: that costs nothing as long as none is running.
 *
 * @param relayIdleTimeout the default.
 */
function readOnDemand(
  values: OptionValues,
  relayIdleTimeout: number | undefined,
): Pick<ServerOptions, 'terms' | 'onDemand' | 'maxSmtpds'> {
  const given = sessionOptions.read(values);
  const terms = { ...given, relayIdleTimeout: given.relayIdleTimeout ?? relayIdleTimeout };
  const onDemand = values['on-demand'] === true;
  const maxSmtpds = numberOption(values, 'smtpds', { min: 1, max: MANY, default: undefined });
  if (maxSmtpds !== undefined && !onDemand) throw usage('--smtpds requires --on-demand');
  return { terms: onDemand ? { ...terms, fresh: true } : terms, onDemand, maxSmtpds };
}

async function readListen(
  values: OptionValues,
  words: readonly string[],
): Promise<{ listen: ServerOptions['listen']; command: readonly string[] }> {
  const { listenHost, parseHostPort, parsePort } = await import('../net/host-port.ts');
  const listenPoint = ({ host, port }: { host: string; port: number }): ListenPoint => ({
    host: listenHost(host),
    port,
  });
  const [host, port, ...command] = words;
  if (host === undefined) throw usage('missing host and port');
  const others = listOption(values, 'listen').map((text) => listenPoint(parseHostPort(text)));
  if (host === '-') {
    if (others.length > 0) throw usage('--listen and - contradict each other');
    return { listen: 'inherited', command: words.slice(1) };
  }
  if (port === undefined) throw usage(`missing port after ${host}`);
  return { listen: [listenPoint({ host, port: parsePort(port) }), ...others], command };
}
