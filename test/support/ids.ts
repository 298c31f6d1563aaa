import { readFileSync } from 'node:fs';

/**
 * The numbers of a user and of the user's group, from /etc/passwd.
 *
 * @throws when there is no such user.
 */
export function idsOf(user: string): { readonly uid: number; readonly gid: number } {
  const [, uid, gid] =
    new RegExp(`^${user}:[^:]*:(\\d+):(\\d+):`, 'm').exec(readFileSync('/etc/passwd', 'latin1')) ?? [];
  if (uid === undefined || gid === undefined) throw new Error(`no user ${user} in /etc/passwd`);
  return { uid: Number(uid), gid: Number(gid) };
}
