import { EXIT, Failure } from '../../program/failure.ts';
import type { Credentials } from '../../smtp/auth.ts';
import { readRegularFile } from '../../tls/file.ts';

/** Users and passwords, by host in lower case. */
export type CredentialsByHost = ReadonlyMap<string, Credentials>;

/**
 * Reads the file of --credentials: lines "host user password", the password up to the end of the line; lines that begin
 * with "#", and empty lines, are ignored. The host is written as in the URL, an IPv6 address without brackets.
 *
 * @throws Failure (100 or 111) that names the file and the line, and repeats nothing of it. Others must not be able to
 * read the file.
 */
export function readCredentialsFile(path: string): CredentialsByHost {
  const byHost = new Map<string, Credentials>();
  for (const [index, line] of readRegularFile('--credentials', path, true)
    .toString('utf8')
    .split(/\r?\n/)
    .entries()) {
    if (/^\s*(?:#|$)/.test(line)) continue;
    const refuse = (why: string): Failure =>
      new Failure(EXIT.wrongUsage, `unable to use --credentials ${path}: line ${index + 1}: ${why}`);
    const [, host = '', user = '', password] = /^\s*(\S+)\s+(\S+)\s+(\S.*)$/.exec(line) ?? [];
    if (password === undefined) throw refuse('expected "host user password"');
    if (line.includes('\0')) throw refuse('it contains a NUL');
    if (byHost.has(host.toLowerCase())) throw refuse('there is another line for this host');
    byHost.set(host.toLowerCase(), { user, password });
  }
  return byHost;
}

/** The credentials for a host; undefined if there are none. */
export function credentialsForHost(
  byHost: CredentialsByHost,
  host: string | undefined,
): Credentials | undefined {
  return host === undefined ? undefined : byHost.get(host.toLowerCase());
}
