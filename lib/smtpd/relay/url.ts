import { isHostName, parseHostPort, parseServerAddress, type ServerAddress } from '../../net/host-port.ts';
import { Failure } from '../../program/failure.ts';
import { usage } from '../../program/options.ts';
import { quotedUrl } from './quoted-url.ts';
import { parseSshUrl, type SshTarget } from './ssh-url.ts';

/** How TLS starts on a connection. */
export type TlsStart =
  /** Not at all. */
  | 'never'
  /** By STARTTLS if it is offered and not refused; otherwise the session is in cleartext. */
  | 'if-offered'
  /** By STARTTLS, or there is no session. */
  | 'required'
  /** With the first byte. */
  | 'implicit';

/** One way to reach a server. Each is tried on a connection of its own. */
export interface Way {
  readonly address: ServerAddress;
  readonly tls: TlsStart;
  /** The server must be verified, or there is no session. */
  readonly mustVerify: boolean;
  /** What must have happened to the way before this one: any failure to have verified TLS, or a failed handshake. */
  readonly after?: 'no-tls' | 'handshake-failed';
}

/** The way by ssh, whose encryption and verification are ssh's. */
export interface SshWay {
  readonly ssh: SshTarget;
}

/** The way of a backup MX: by smtp+tls to the MX hosts of the recipient's domain that are preferred to this one. */
export interface BackupWay {
  /** The name of this MX host, in lower case, without a dot at the end. */
  readonly backup: string;
  /** The port of the other hosts. */
  readonly port: number;
}

/** A server to pass mail on to. */
export interface RelayTarget {
  /** The URL, as messages name it. */
  readonly url: string;
  /** The host name or address that certificates are verified against; undefined where the URL has none. */
  readonly host: string | undefined;
  readonly protocol: 'smtp' | 'lmtp';
  /** In the order in which they are tried, one or two; or the one by ssh, or of a backup MX. */
  readonly ways: readonly Way[] | readonly [SshWay] | readonly [BackupWay];
}

/** What a scheme promises. */
interface Scheme {
  readonly protocol: RelayTarget['protocol'];
  /** Each with its default port. */
  readonly ways: readonly (Omit<Way, 'address'> & { readonly port: number })[];
}

const CLEARTEXT = { tls: 'never', mustVerify: false } as const;

/** The default port of backup, which is not one of these schemes: MX records name its servers. */
const BACKUP_PORT = 25;

/** ssh is not one of these: its server is a program, not a connection. */
const SCHEMES: ReadonlyMap<string, Scheme> = new Map<string, Scheme>([
  [
    'smtp+tls',
    {
      protocol: 'smtp',
      ways: [
        { port: 25, tls: 'if-offered', mustVerify: false },
        { port: 25, ...CLEARTEXT, after: 'handshake-failed' },
      ],
    },
  ],
  ['smtp', { protocol: 'smtp', ways: [{ port: 25, ...CLEARTEXT }] }],
  ['tls', { protocol: 'smtp', ways: [{ port: 25, tls: 'required', mustVerify: true }] }],
  ['smtps', { protocol: 'smtp', ways: [{ port: 465, tls: 'implicit', mustVerify: true }] }],
  [
    'ssl',
    {
      protocol: 'smtp',
      ways: [
        { port: 25, tls: 'required', mustVerify: true },
        { port: 465, tls: 'implicit', mustVerify: true, after: 'no-tls' },
      ],
    },
  ],
  ['lmtp', { protocol: 'lmtp', ways: [{ port: 24, ...CLEARTEXT }] }],
]);

/** What is added to a scheme for a Unix socket. */
const UNIX = '+unix';

/**
 * Parses the URL of a server: "SCHEME://HOST[:PORT]" or "SCHEME+unix:PATH". For ssl, PORT may be two ports with a comma
 * between them: that of STARTTLS and that of TLS from the first byte. For backup, HOST is the name of this MX host. For
 * ssh, see `parseSshUrl`.
 *
 * @throws Failure (100) that names the fault. A URL with a user or a password is refused and not repeated.
 */
export function parseRelayUrl(url: string): RelayTarget {
  const [, name = '', rest] = /^([a-z][a-z+]*):(.*)$/is.exec(url) ?? [];
  if (rest === undefined) throw usage(`expected a URL such as tls://mail.example, not ${quotedUrl(url)}`);
  if (name.toLowerCase() === 'ssh') {
    return { url, host: undefined, protocol: 'smtp', ways: [{ ssh: parseSshUrl(url) }] };
  }
  if (name.toLowerCase() === 'backup') return backupTarget(url, rest);
  const isUnix = name.toLowerCase().endsWith(UNIX);
  const scheme = SCHEMES.get(isUnix ? name.slice(0, -UNIX.length).toLowerCase() : name.toLowerCase());
  if (scheme === undefined) {
    throw usage(
      `unknown scheme ${JSON.stringify(name)} in a URL, expected one of ${[...SCHEMES.keys(), 'ssh', 'backup'].join(', ')}`,
    );
  }
  return isUnix ? unixTarget(url, scheme, rest) : hostTarget(url, scheme, rest);
}

function unixTarget(url: string, { protocol, ways }: Scheme, path: string): RelayTarget {
  if (!path.startsWith('/')) throw usage(`expected an absolute path after "${UNIX}:" in ${quotedUrl(url)}`);
  const address = parseServerAddress(`unix:${path}`);
  return { url, host: undefined, protocol, ways: ways.map(({ port: _, ...way }) => ({ ...way, address })) };
}

function backupTarget(url: string, rest: string): RelayTarget {
  const { host, ports } = hostAndPorts(url, rest, 1);
  const { host: name, port } = addressOf(url, host, ports[0] ?? String(BACKUP_PORT));
  if (!isHostName(name)) throw usage(`expected the name of this MX host in ${quotedUrl(url)}`);
  return { url, host: undefined, protocol: 'smtp', ways: [{ backup: comparableName(name), port }] };
}

/** A host name in lower case, without the dot at the end of an absolute one. */
export function comparableName(name: string): string {
  return name.toLowerCase().replace(/\.$/, '');
}

function hostTarget(url: string, { protocol, ways }: Scheme, rest: string): RelayTarget {
  const defaults = [...new Set(ways.map(({ port }) => port))];
  const { host, ports } = hostAndPorts(url, rest, defaults.length);
  const addressed = ways.map(({ port, ...way }) => ({
    ...way,
    address: addressOf(url, host, ports[defaults.indexOf(port)] ?? String(port)),
  }));
  return { url, host: addressed[0]?.address.host, protocol, ways: addressed };
}

/** Takes "//HOST[:PORT[,PORT]]" apart. @param limit how many ports there may be. */
function hostAndPorts(
  url: string,
  rest: string,
  limit: number,
): { readonly host: string; readonly ports: readonly string[] } {
  if (!rest.startsWith('//')) {
    throw usage(`expected "//" and a host after the scheme in ${quotedUrl(url)}`);
  }
  // In brackets, %40 is the zone of an address.
  if (/@|%40/.test(rest.replace(/^\/\/\[[\da-f:.]+%40/i, ''))) {
    throw usage('a URL must not contain a user or a password, others can read it; see --credentials');
  }
  const [, host = '', list, more = ''] =
    /^(\[[^\]]*\]|[^:/?#]*)(?::([^/?#]*))?(.*)$/s.exec(rest.slice(2)) ?? [];
  if (more !== '' && more !== '/')
    throw usage(`unexpected ${JSON.stringify(more)} after the host in ${quotedUrl(url)}`);
  const ports = list?.split(',') ?? [];
  if (ports.length > limit) throw usage(`too many ports in ${quotedUrl(url)}`);
  return { host, ports };
}

function addressOf(url: string, host: string, port: string): { host: string; port: number } {
  let address: { host: string; port: number } | undefined;
  try {
    address = parseHostPort(`${host}:${port}`);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
  }
  // As a host, 0 would be this one.
  if (address !== undefined && address.host !== '0' && address.port !== 0) return address;
  // Not the message of that error: the port may be the default one.
  throw usage(
    'expected HOST or HOST:PORT after the scheme, an IPv6 address in brackets, a port from 1 to 65535 or the name of a ' +
      `service, in ${quotedUrl(url)}`,
  );
}
