import { EXIT, Failure } from '../../program/failure.ts';
import type { Credentials } from '../../smtp/auth.ts';
import { readRegularFile } from '../../tls/file.ts';

/** Users and passwords, by host in lower case. */
export type CredentialsByHost = ReadonlyMap<string, Credentials>;

/**
 * Reads the file of --credentials: lines "host user password", the password up to the end of the line; lines that begin
 * with "#", and empty lines, are ignored. It is in UTF-8. The host is written as in the URL, an IPv6 address without brackets.
 *
 * @throws Failure (100 or 111) that names the file and the line, and repeats nothing of it. Others must not be able to
 * read the file.
 */
export function readCredentialsFile(path: string): CredentialsByHost {
  const byHost = new Map<string, Credentials>();
  const lines = readRegularFile('--credentials', path, true).toString('latin1').split(/\r?\n/);
  for (const [index, octets] of lines.entries()) {
    const line = decode(octets);
    if (/^\s*(?:#|$)/.test(line ?? octets)) continue;
    const refuse = (why: string): Failure =>
      new Failure(EXIT.wrongUsage, `unable to use --credentials ${path}: line ${index + 1}: ${why}`);
    if (line === undefined) throw refuse('it is not UTF-8');
    const [, host = '', user = '', password] = /^\s*(\S+)\s+(\S+)\s+(\S.*)$/s.exec(line) ?? [];
    if (password === undefined) throw refuse('expected "host user password"');
    if (line.includes('\0')) throw refuse('it contains a NUL');
    if (byHost.has(host.toLowerCase())) throw refuse('there is another line for this host');
    byHost.set(host.toLowerCase(), { user, password });
  }
  return byHost;
}

/**
 * Decodes UTF-8, which PLAIN requires (RFC 4616 section 2). Otherwise another password would be sent than is in the file.
 *
 * @returns undefined if it is not UTF-8.
 */
function decode(octets: string): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(Buffer.from(octets, 'latin1'));
  } catch {
    return undefined;
  }
}

/** The credentials for a host; undefined if there are none. */
export function credentialsForHost(
  byHost: CredentialsByHost,
  host: string | undefined,
): Credentials | undefined {
  return host === undefined ? undefined : byHost.get(host.toLowerCase());
}
