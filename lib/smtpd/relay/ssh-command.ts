import { lstatSync, mkdirSync, type Stats } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EXIT, errorCode, Failure } from '../../program/failure.ts';
import type { SshTarget } from './ssh-url.ts';

/** Which ssh to run, and how. */
export interface SshOptions {
  /** The program, searched in PATH. */
  readonly program: string;
  /** Words for its command line: -F and a file, for example. They cannot weaken what is required. */
  readonly words: readonly string[];
  /** The whole environment of ssh. */
  readonly environment: NodeJS.ProcessEnv;
}

/**
 * What is required, whatever the configuration says: ssh takes the first value that it is given for an option.
 *
 * No question can be asked, so a passphrase or an unknown host key is a failure. A host whose key is not known, or is
 * another one, is never connected to. The server gets nothing of ours but the session.
 */
const REQUIRED = [
  'BatchMode=yes',
  'StrictHostKeyChecking=yes',
  // Without these, a key that is not known would do for this host, or if the resolver vouches for it.
  'NoHostAuthenticationForLocalhost=no',
  'VerifyHostKeyDNS=no',
  'UpdateHostKeys=no',
  'ForwardAgent=no',
  'ForwardX11=no',
  'ClearAllForwardings=yes',
  'PermitLocalCommand=no',
  'RequestTTY=no',
  'EscapeChar=none',
];

/** What `SshOptions.words` may change. */
const DEFAULTS = [
  'ConnectTimeout=30',
  'ServerAliveInterval=60',
  'ControlMaster=auto',
  // For how long after the last session the connection is kept, in seconds.
  'ControlPersist=60',
];

/**
 * The command that connects its standard input and output with an SMTP server by ssh.
 *
 * Sessions to the same host share a connection. Its socket is in a directory of the user.
 *
 * @throws Failure (111) if that directory cannot be made, or is not private.
 */
export function sshCommand(
  target: SshTarget,
  { program, words }: Pick<SshOptions, 'program' | 'words'>,
): string[] {
  const options = [...DEFAULTS, `ControlPath=${escapePercent(controlFolder())}/%C`];
  return [
    program,
    ...REQUIRED.flatMap((option) => ['-o', option]),
    ...words,
    ...options.flatMap((option) => ['-o', option]),
    ...(target.port === undefined ? [] : ['-p', String(target.port)]),
    ...(target.user === undefined ? [] : ['-l', target.user]),
    ...(target.action.type === 'connect' ? ['-W', target.action.address] : []),
    '--',
    target.host,
    ...(target.action.type === 'run' ? [target.action.command] : []),
  ];
}

/**
 * The directory of the sockets of shared connections. A process that can use such a socket can use the connection, so it
 * belongs to the user alone.
 */
function controlFolder(): string {
  // Not userInfo: a user need not have a name.
  const uid = process.getuid?.() ?? 0;
  const folder = join(process.env.XDG_RUNTIME_DIR ?? tmpdir(), `smtp-relay-io-${uid}`);
  let status: Stats;
  try {
    mkdirSync(folder, { mode: 0o700, recursive: true });
    // Not followed: in a directory that all may write to, a link may lead anywhere.
    status = lstatSync(folder);
  } catch (error) {
    throw unusable(folder, errorCode(error));
  }
  if (!status.isDirectory() || status.uid !== uid || (status.mode & 0o077) !== 0) {
    throw unusable(folder, 'it is not a directory that only this user can use');
  }
  return folder;
}

function unusable(folder: string, why: string): Failure {
  return new Failure(EXIT.systemCallFailed, `unable to use ${folder} for connections of ssh: ${why}`);
}

/** In ControlPath, % begins a token. */
function escapePercent(path: string): string {
  return path.replaceAll('%', '%%');
}
