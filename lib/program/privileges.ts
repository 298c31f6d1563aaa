import { EXIT, Failure } from './failure.ts';

/** A user to become. */
export interface Privileges {
  /** Becomes that user, for good. @throws when the system does not allow it. */
  drop(): void;
}

/**
 * Reads TLS_UID and TLS_GID, as s6-tlsd-io does: only root can become another user, so for others they
 * mean nothing.
 *
 * @throws Failure (100) when one of them is no number.
 */
export function readPrivileges(environment: NodeJS.ProcessEnv): Privileges {
  const uid = readId(environment, 'TLS_UID');
  const gid = readId(environment, 'TLS_GID');
  return {
    drop: () => {
      if (process.getuid?.() !== 0) return;
      // Groups first: whoever has become another user may not change them any more.
      if (gid !== undefined) {
        process.setgroups?.([gid]);
        process.setgid?.(gid);
      }
      if (uid !== undefined) process.setuid?.(uid);
    },
  };
}

function readId(environment: NodeJS.ProcessEnv, name: string): number | undefined {
  const text = environment[name];
  if (text === undefined) return undefined;
  if (!/^\d{1,10}$/.test(text))
    throw new Failure(EXIT.wrongUsage, `wrong usage: ${name} is no number: ${text}`);
  return Number(text);
}
