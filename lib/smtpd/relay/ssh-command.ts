import { createHash } from 'node:crypto';
import { lstatSync, mkdirSync, type Stats } from 'node:fs';
import { tmpdir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { errorCode } from '../../program/failure.ts';
import type { SshTarget } from './ssh-url.ts';

/** Which ssh to run, and how. */
export interface SshOptions {
  /** The program, searched in PATH. */
  readonly program: string;
  /** Words for its command line: -F and a file, for example. Options by -o cannot weaken what is required. */
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
  // Without these, an unknown key would be accepted for localhost, or if DNS has its fingerprint (SSHFP).
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
 * Sessions to the same host with the same words share a connection. Its socket is in a directory of the user.
 *
 * @param warn is called with the reason when that directory cannot be used: then nothing is shared.
 */
export function sshCommand(
  target: SshTarget,
  { program, words }: Pick<SshOptions, 'program' | 'words'>,
  warn: (why: string) => void,
): string[] {
  const options = [...DEFAULTS, `ControlPath=${controlPath([program, ...words], warn)}`];
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
 * The path of the socket of a shared connection, or "none". %C depends on the host, the port and the user, but not on
 * the key, and the forced command depends on that.
 */
function controlPath(words: readonly string[], warn: (why: string) => void): string {
  const folder = controlFolder();
  const fault = faultOf(folder);
  if (fault !== undefined) {
    // Others can make it unusable, in /tmp. That must not stop the mail.
    warn(`unable to share connections of ssh in ${folder}: ${fault}`);
    return 'none';
  }
  return `${folder}/%C${createHash('sha256').update(words.join('\0')).digest('base64url').slice(0, 4)}`;
}

function controlFolder(): string {
  const runtime = process.env.XDG_RUNTIME_DIR ?? '';
  // The XDG Base Directory Specification has any other path ignored.
  return join(isAbsolute(runtime) ? runtime : tmpdir(), `smtp-relay-io-${ourUid()}`);
}

/** Not userInfo: a user need not have a name. */
function ourUid(): number {
  return process.getuid?.() ?? 0;
}

/**
 * The path of a Unix socket has at most 107 octets. The name has 44, "/" one, and ssh adds 17 while it makes the socket.
 * Other characters than these may be special to ssh.
 */
const USABLE_PATH = /^[\w/.:@,+-]{1,45}$/;

/**
 * Makes the directory of the sockets. A process that can use such a socket can use the connection, so it must belong to
 * the user alone.
 *
 * @returns why it cannot be used; undefined if it can.
 */
function faultOf(folder: string): string | undefined {
  if (!USABLE_PATH.test(folder)) return 'its path is too long, or has special characters';
  let status: Stats;
  try {
    mkdirSync(folder, { mode: 0o700, recursive: true });
    // Not followed: in a directory that all may write to, a link may lead anywhere.
    status = lstatSync(folder);
  } catch (error) {
    return errorCode(error);
  }
  const isPrivate = status.isDirectory() && status.uid === ourUid() && (status.mode & 0o077) === 0;
  return isPrivate ? undefined : 'it is not a directory that only this user can use';
}
