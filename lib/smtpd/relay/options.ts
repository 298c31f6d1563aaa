import { formatHostPort, parseEndpoint } from '../../net/host-port.ts';
import { listOption, numberOption, type OptionGroup, stringOption, usage } from '../../program/options.ts';
import { HANDSHAKE_LIMITS, readHandshakeTimeout } from '../../tls/options.ts';
import type { Backend } from '../remote.ts';
import { readSendProxy, SEND_PROXY } from '../send-proxy.ts';

/** What the options about servers that URLs name are read as. */
export interface ReachSettings {
  /** The path; undefined for no AUTH. */
  readonly credentialsFile: string | undefined;
  /** See `TlsClientOptions`. */
  readonly pins: readonly string[];
  /** See `SshOptions`. */
  readonly sshProgram: string;
  readonly sshWords: readonly string[];
  /** In milliseconds. */
  readonly connectTimeout: number;
  /** See `ReachOptions`. */
  readonly resolver: string | undefined;
}

/** What the options of smtp-relay-io are read as. */
export interface RelaySettings extends ReachSettings {
  readonly sendProxy: Backend['sendProxy'];
  /** See `RelayedOptions`; undefined for the name that the system has. */
  readonly localName: string | undefined;
  /** All in milliseconds. */
  readonly handshakeTimeout: number;
  readonly idleTimeout: number;
  readonly relayIdleTimeout: number;
}

const SECONDS = { min: 1, max: 2_000_000 };

/** How servers that URLs name are reached, for all programs that pass mail on to them. */
export const reachOptions: OptionGroup<ReachSettings> = {
  rows: [
    {
      name: 'credentials',
      value: 'FILE',
      help: 'lines "host user password" for AUTH, in TLS with a verified server only',
    },
    {
      name: 'pin',
      value: 'SHA256',
      multiple: true,
      help: 'verify the server by its public key, with this digest, in place of its certificate; repeatable',
    },
    { name: 'ssh', value: 'PROGRAM', help: 'the program for ssh:// (ssh)' },
    {
      name: 'ssh-option',
      value: 'WORD',
      multiple: true,
      help: 'a word for the command line of ssh; repeatable',
    },
    {
      name: 'connect-timeout',
      value: 'SECONDS',
      help: 'time for a connection to the server of a URL (30)',
    },
    { name: 'resolver', value: 'ADDRESS[:PORT]', help: 'the DNS server for backup:// (of the system)' },
  ],
  read: (values) => ({
    credentialsFile: stringOption(values, 'credentials'),
    pins: listOption(values, 'pin').map(readPin),
    sshProgram: stringOption(values, 'ssh') ?? 'ssh',
    sshWords: listOption(values, 'ssh-option'),
    connectTimeout: numberOption(values, 'connect-timeout', { ...SECONDS, default: 30 }) * 1000,
    resolver: readResolver(stringOption(values, 'resolver')),
  }),
};

/** All options of smtp-relay-io but verbosity. */
export const relayOptions: OptionGroup<RelaySettings> = {
  rows: [
    ...reachOptions.rows,
    SEND_PROXY,
    { name: 'local-name', short: 'l', value: 'NAME', help: 'name of this host, in the greeting' },
    ...HANDSHAKE_LIMITS,
    {
      name: 'idle-timeout',
      short: 't',
      value: 'SECONDS',
      help: 'time for a command of the client until the relay, and for each reply of the server until then (300)',
    },
    {
      name: 'relay-idle-timeout',
      short: 'T',
      value: 'SECONDS',
      help: 'idle timeout of the relay (3600)',
    },
  ],
  read: (values) => {
    return {
      ...reachOptions.read(values),
      sendProxy: readSendProxy(values),
      localName: stringOption(values, 'local-name'),
      handshakeTimeout: readHandshakeTimeout(values),
      idleTimeout: numberOption(values, 'idle-timeout', { ...SECONDS, default: 300 }) * 1000,
      // A program behind a session has limits of its own. A remote server need not, and while it reads nothing, not even
      // the client's leaving is noticed. No client waits longer than an hour, which is sendmail's limit.
      relayIdleTimeout: numberOption(values, 'relay-idle-timeout', { ...SECONDS, default: 3600 }) * 1000,
    };
  },
};

const DNS_PORT = 53;

function readResolver(server: string | undefined): string | undefined {
  if (server === undefined) return undefined;
  const endpoint = parseEndpoint(server, DNS_PORT);
  if (endpoint !== undefined) return formatHostPort(endpoint.ip, endpoint.port);
  throw usage(
    `--resolver takes an address, with or without a port, as 192.0.2.53 or [::1]:53, not ${server}`,
  );
}

function readPin(pin: string): string {
  if (/^[\da-f]{64}$/i.test(pin)) return pin.toLowerCase();
  throw usage(`--pin takes a SHA-256 digest of 64 hexadecimal digits, not ${pin}`);
}
