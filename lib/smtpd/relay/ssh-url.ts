import { formatHostPort, parseHostPort } from '../../net/address.ts';
import { usage } from '../../program/options.ts';

/** An SMTP server that is reached by ssh. */
export interface SshTarget {
  /** The URL, as messages name it. */
  readonly url: string;
  /** A host name, an address, or an alias of ssh_config(5). */
  readonly host: string;
  readonly user: string | undefined;
  /** Undefined for what the configuration of ssh says, or 22. */
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
  if (!isWord(host)) {
    throw usage(`expected ssh://[USER@]HOST[:PORT][/COMMAND] or ...?connect=HOST:PORT, not ${quoted(url)}`);
  }
  if (login?.includes(':') === true) {
    throw usage('a URL must not contain a password, others can read it; ssh uses keys');
  }
  const user = login === undefined ? undefined : decode(login, url);
  if (user !== undefined && !isWord(user)) throw usage(`invalid user ${quoted(user)} in ${quoted(url)}`);
  const number = port === undefined ? undefined : Number(port);
  if (number !== undefined && (number < 1 || number > 65535)) {
    throw usage(`expected a port from 1 to 65535, in ${quoted(url)}`);
  }
  return { url, host, user, port: number, action: actionOf(path.slice(1), query, url) };
}

function actionOf(command: string, query: string | undefined, url: string): SshTarget['action'] {
  if (query === undefined) {
    return { type: 'run', command: command === '' ? DEFAULT_COMMAND : decode(command, url) };
  }
  const [, address] = /^connect=(.+)$/s.exec(query) ?? [];
  if (address === undefined) throw usage(`expected ?connect=HOST:PORT, not ?${query}, in ${quoted(url)}`);
  if (command !== '') throw usage(`a command and connect= contradict each other, in ${quoted(url)}`);
  const { host, port } = parseHostPort(decode(address, url));
  return { type: 'connect', address: formatHostPort(host, port) };
}

function decode(text: string, url: string): string {
  let decoded: string;
  try {
    decoded = decodeURIComponent(text);
  } catch {
    throw usage(`malformed %XX in ${quoted(url)}`);
  }
  if (CONTROL.test(decoded)) throw usage(`control character in ${quoted(url)}`);
  return decoded;
}

const CONTROL = /[\0-\x1f\x7f]/;

/** Whether a host or a user can be an argument of ssh: it must not be taken for an option. */
function isWord(text: string): boolean {
  return /^[^\s-]\S*$/.test(text);
}

function quoted(word: string): string {
  return JSON.stringify(word);
}
