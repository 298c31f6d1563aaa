import { formatHostPort, parseHostPort } from '../../net/host-port.ts';
import { usage } from '../../program/options.ts';
import { quotedUrl } from './quoted-url.ts';

/** An SMTP server that is reached by ssh. */
export interface SshTarget {
  /** A host name, an address, or an alias of ssh_config(5). */
  readonly host: string;
  readonly user: string | undefined;
  /** Undefined for what the configuration of ssh has, or 22. */
  readonly port: number | undefined;
  /** What to do on that host. */
  readonly action:
    | { readonly type: 'run'; readonly command: string }
    /** Have it connect to this address: ssh -W. */
    | { readonly type: 'connect'; readonly address: string };
}

/** An SMTP server on stdin and stdout, on nearly every host with mail. A forced command there replaces it. */
const DEFAULT_COMMAND = 'sendmail -bs';

/**
 * Parses "ssh://[USER@]HOST[:PORT][/COMMAND]" or "ssh://[USER@]HOST[:PORT]?connect=HOST:PORT". In COMMAND, %XX stands for
 * an octet, as for a space: "/usr%2Fsbin%2Fsendmail%20-bs".
 *
 * @throws Failure (100) that names the fault.
 */
export function parseSshUrl(url: string): SshTarget {
  const [, login, bracketed, bare = '', port, path = '', query] =
    /^ssh:\/\/(?:([^@/?#]*)@)?(?:\[([^\]]*)\]|([^:/?#[\]]*))(?::(\d{1,5}))?(\/[^?#]*)?(?:\?([^#]*))?$/is.exec(
      url,
    ) ?? [];
  const host = bracketed ?? bare;
  if (!isWord(host) || /[$\\]/.test(host)) {
    throw usage(
      `expected ssh://[USER@]HOST[:PORT][/COMMAND] or ...?connect=HOST:PORT, not ${quotedUrl(url)}`,
    );
  }
  const user = login === undefined ? undefined : decode(login, url);
  if (user?.includes(':') === true) {
    throw usage('a URL must not contain a password, others can read it; ssh uses keys');
  }
  if (user !== undefined && !isWord(user))
    throw usage(`invalid user ${JSON.stringify(user)} in ${quotedUrl(url)}`);
  const number = port === undefined ? undefined : Number(port);
  if (number !== undefined && (number < 1 || number > 65535)) {
    throw usage(`expected a port from 1 to 65535, in ${quotedUrl(url)}`);
  }
  return { host, user, port: number, action: actionOf(path.slice(1), query, url) };
}

function actionOf(path: string, query: string | undefined, url: string): SshTarget['action'] {
  const command = path === '' ? undefined : decode(path, url);
  if (query === undefined) {
    // No command begins like an option.
    if (command?.startsWith('-') === true)
      throw usage(`expected a command after the host in ${quotedUrl(url)}`);
    return { type: 'run', command: command ?? DEFAULT_COMMAND };
  }
  const address = /^connect=(.+)$/s.exec(decode(query, url))?.[1];
  // In what is quoted, there may be a part of a password.
  if (address === undefined || address.includes('@')) {
    throw usage(`expected ?connect=HOST:PORT, in ${quotedUrl(url)}`);
  }
  if (command !== undefined)
    throw usage(`a command and connect= contradict each other, in ${quotedUrl(url)}`);
  const { host, port } = parseHostPort(address);
  return { type: 'connect', address: formatHostPort(host, port) };
}

function decode(text: string, url: string): string {
  let decoded: string;
  try {
    decoded = decodeURIComponent(text);
  } catch {
    throw usage(`malformed %XX in ${quotedUrl(url)}`);
  }
  if (CONTROL.test(decoded)) throw usage(`control character in ${quotedUrl(url)}`);
  return decoded;
}

const CONTROL = /\p{Cc}/u;

/**
 * Whether a host or a user can be an argument of ssh: it must not be taken for an option, nor be special to a shell, as
 * OpenSSH refuses it since 9.6. ssh may put it into a command: see %h and %r in ssh_config(5).
 */
function isWord(text: string): boolean {
  return /^[^-]/.test(text) && !/[\s'"`;&<>|(){}]/.test(text) && !CONTROL.test(text);
}
