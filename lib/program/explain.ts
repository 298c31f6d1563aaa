import { errorCode } from './failure.ts';

/** What was attempted when a system call failed. */
export type Attempt =
  /** To serve the client on descriptors 0 and 1. */
  | 'serve'
  | 'listen'
  | 'connect'
  /** To read a file that an administrator has configured. */
  | 'read'
  /** To write to a Maildir. */
  | 'write'
  /** To start a program. */
  | 'run'
  /** To change to another user or group. */
  | 'change-user'
  /** To announce on a descriptor that the server is ready. */
  | 'notify';

/** What to do about a limit on descriptors. */
export const RAISE_DESCRIPTOR_LIMIT = 'raise ulimit -n, or LimitNOFILE= of systemd';

const NOT_NOTIFIED = 'not open; s6 opens the number that is in notification-fd';

/** What an error means and what to do about it, where its code alone does not help. */
const HINTS: Readonly<Record<Attempt, Readonly<Record<string, string>>>> = {
  serve: {
    ERR_INVALID_FD_TYPE: 'they are a file or a terminal; start this program with tcpserver or the like',
  },
  listen: {
    EADDRINUSE: 'another process listens there: ss -ltnp',
    EACCES: 'ports below 1024 are for root: start as root, with -u and -g, or grant CAP_NET_BIND_SERVICE',
    EADDRNOTAVAIL: 'no interface has this address: ip address',
    EAFNOSUPPORT: 'this host has no IPv6',
    ENOTFOUND: 'no such host name',
    EAI_AGAIN: 'DNS does not answer; use an address',
  },
  connect: {
    ECONNREFUSED: 'nothing listens there',
    ENOENT: 'no such socket',
    ENOTFOUND: 'no such host name',
    EACCES: 'this user cannot write to it, or cannot search a directory above it: namei -l',
    EAI_AGAIN: 'DNS does not answer; use an address',
  },
  read: {
    ENOENT: 'no such file, or a link to one that does not exist',
    EACCES: 'this user cannot read it, or cannot search a directory above it: namei -l',
  },
  write: {
    EACCES: 'this user cannot write there, or cannot search a directory above it: namei -l',
    EROFS: 'mounted read-only, or protected by ProtectSystem= of systemd',
    ENOSPC: 'no space or no inodes left: df, df -i',
    // EDQUOT of Linux, for which Node has no name.
    'Unknown system error -122': 'the disk quota of this user is exceeded',
  },
  run: {
    ENOENT: 'no such program: check its path, PATH, and the interpreter in its first line',
    EACCES: 'not an executable file, or not for this user: namei -l',
    EAGAIN: 'too many processes: raise ulimit -u, or TasksMax= of systemd',
  },
  'change-user': {
    EPERM: 'only root can do this, with CAP_SETUID and CAP_SETGID',
    EINVAL: 'no such user or group in this user namespace',
  },
  notify: {
    EBADF: NOT_NOTIFIED,
    // A descriptor that Node has opened for itself: 3, usually.
    EINVAL: NOT_NOTIFIED,
  },
};

/** The same for errors that mean the same whatever was attempted. */
const COMMON_HINTS: Readonly<Record<string, string>> = {
  EMFILE: `too many open descriptors: ${RAISE_DESCRIPTOR_LIMIT}`,
  ENFILE: 'too many open descriptors on this host: sysctl fs.file-max',
  ENOMEM: 'not enough memory, or a limit on it: ulimit -v',
};

/**
 * Describes an error for an administrator: its code and, where that helps, what to do, for example
 * `EADDRINUSE (another process listens there: ss -ltnp)`. It is the last part of a message.
 *
 * @param error any thrown value, or an error code. What has no hint is described as by `errorCode`.
 */
export function explain(attempt: Attempt, error: unknown): string {
  const code = errorCode(error);
  const hint = HINTS[attempt][code] ?? COMMON_HINTS[code];
  return hint === undefined ? code : `${code} (${hint})`;
}
