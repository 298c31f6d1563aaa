import { explain } from './explain.ts';
import { EXIT, Failure } from './failure.ts';
import { usage } from './options.ts';

/** The privileges to drop. */
export interface Privileges {
  /** Whether user and group stay as they are. */
  readonly isUnchanged: boolean;
  /** Changes to the user and group permanently. @throws Failure (111) when the system does not permit it. */
  drop(): void;
}

/** The user and group to change to; undefined for no change. */
export interface Identity {
  readonly uid: number | undefined;
  readonly gid: number | undefined;
  /** Supplementary groups; only `gid` when undefined. */
  readonly groups: readonly number[] | undefined;
}

/** Prepares a change of user. */
export function privilegesOf({ uid, gid, groups }: Identity): Privileges {
  return {
    isUnchanged: uid === undefined && gid === undefined,
    drop: () => {
      try {
        // Groups first: an unprivileged user is not permitted to change them.
        if (gid !== undefined) {
          process.setgroups?.([...(groups ?? [gid])]);
          process.setgid?.(gid);
        }
        if (uid !== undefined) process.setuid?.(uid);
      } catch (error) {
        throw new Failure(
          EXIT.systemCallFailed,
          `unable to change user and group: ${explain('change-user', error)}`,
        );
      }
    },
  };
}

/**
 * Reads TLS_UID and TLS_GID, as s6-tlsd-io does. Only root can change the user, so for other users they are
 * ignored.
 *
 * @throws Failure (100) when one of them is not a number.
 */
export function readPrivileges(environment: NodeJS.ProcessEnv): Privileges {
  const identity = { uid: readId(environment, 'TLS_UID'), gid: readId(environment, 'TLS_GID') };
  const isRoot = process.getuid?.() === 0;
  return privilegesOf({ ...(isRoot ? identity : NO_CHANGE), groups: undefined });
}

const NO_CHANGE = { uid: undefined, gid: undefined };

/**
 * Reads UID, GID and GIDLIST, as s6-tcpserver and s6-applyuidgid do for -U.
 *
 * @throws Failure (100) when UID or GID is not set, or one of the three is not a number.
 */
export function readIdentity(environment: NodeJS.ProcessEnv): Identity {
  const uid = readId(environment, 'UID');
  const gid = readId(environment, 'GID');
  if (uid === undefined) throw usage('UID is not set');
  if (gid === undefined) throw usage('GID is not set');
  const list = environment.GIDLIST;
  const groups = list === undefined || list === '' ? undefined : list.split(',');
  return { uid, gid, groups: groups?.map((group) => parseId('GIDLIST', group)) };
}

function readId(environment: NodeJS.ProcessEnv, name: string): number | undefined {
  const text = environment[name];
  return text === undefined ? undefined : parseId(name, text);
}

function parseId(name: string, text: string): number {
  // The highest number means "no change" to the system.
  if (!/^\d{1,10}$/.test(text) || Number(text) >= 2 ** 32 - 1)
    throw usage(`${name} is not a number: ${text}`);
  return Number(text);
}
