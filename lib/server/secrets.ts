import { randomBytes } from 'node:crypto';
import { type BigIntStats, statSync } from 'node:fs';
import { EXIT, errorCode, Failure } from '../program/failure.ts';
import type { Reporter } from '../program/reporter.ts';
import {
  type CredentialFiles,
  type CredentialOptions,
  credentialPaths,
  readCredentials,
} from '../tls/credentials.ts';
import { readTicketKeys, TICKET_KEYS_LENGTH } from '../tls/ticket-keys.ts';

/** Keys and certificates at one moment: plain data, so that they can be sent to another process as JSON. */
export interface SecretsSnapshot {
  readonly files: CredentialFiles;
  /** The key for session tickets, all three parts of it: 48 octets in base64. */
  readonly ticketKey: string;
}

/** Where secrets come from. */
export interface SecretsOptions {
  /** See `readCredentials`. */
  readonly environment: NodeJS.ProcessEnv;
  readonly credentialOptions: CredentialOptions;
  /** See `readTicketKeys`; undefined for random keys, replaced every `rotation`. */
  readonly ticketKeysFile: string | undefined;
  readonly report: Reporter;
  /** How often files are checked, and how long they must be unchanged before they are read, in milliseconds. */
  readonly interval?: number;
  /** How long random ticket keys are used, in milliseconds; checked every `interval`. */
  readonly rotation?: number;
}

/** Keys and certificates, kept up to date. */
export interface Secrets {
  /** What is in use now. */
  current(): SecretsSnapshot;
  /**
   * Reads all files again, now. If they are not valid, this logs a warning and keeps the previous ones. If their
   * content has changed, the watcher is called.
   *
   * @returns whether they are valid.
   */
  reload(): boolean;
  /**
   * Calls `changed` with all changes from now on: of files, once they are valid and no longer being written, and of
   * random ticket keys. There is one watcher; another call replaces it.
   */
  watch(changed: (snapshot: SecretsSnapshot) => void): void;
  /** Stops watching. */
  close(): void;
}

/**
 * Certificates are renewed every few weeks. The new one is in use within ten seconds, and copying two files one after
 * the other takes less than that.
 */
const INTERVAL = 5000;

/** One hour: with stolen ticket keys, sessions resumed in that time below TLS 1.3 can be decrypted. */
const ROTATION = 3_600_000;

/**
 * Reads keys and certificates, and keeps them up to date.
 *
 * Files are checked by a timer, at one system call per file. fs.watch would take more code and miss changes: the
 * change may be to the target of a link, or to a directory on the way there (`live` of certbot, `..data` of
 * Kubernetes), and some file systems report no changes at all.
 *
 * @throws Failure (100, 111) when they cannot be read or are not valid.
 */
export function createSecrets(options: SecretsOptions): Secrets {
  const { environment, credentialOptions, ticketKeysFile, report } = options;
  const { interval = INTERVAL, rotation = ROTATION } = options;
  let randomKey = createTicketKey();
  let keyCreatedAt = performance.now();
  // Taken before the files are read: a change meanwhile is noticed at the next check.
  let readState = fileState(options);
  let lastState = readState;
  let snapshot = read();
  /** Why the last attempt to read failed; undefined when it succeeded. */
  let failure: unknown;
  let notify: (snapshot: SecretsSnapshot) => void = () => {};
  let timer: NodeJS.Timeout | undefined;

  function read(): SecretsSnapshot {
    return {
      files: readCredentials(environment, credentialOptions),
      ticketKey: ticketKeysFile === undefined ? randomKey : readTicketKeys(ticketKeysFile).toString('base64'),
    };
  }

  function use(next: SecretsSnapshot): void {
    snapshot = next;
    notify(next);
  }

  /** @param warn `on-change`: only about a failure that differs from the last one. */
  function renew(warn: 'always' | 'on-change'): boolean {
    readState = fileState(options);
    lastState = readState;
    const before = failure;
    const next = tryToRead();
    if (next === undefined) {
      const why = errorCode(failure);
      if (warn === 'always' || before === undefined || why !== errorCode(before)) {
        report.warning(`${why}; keeping the previous keys and certificates`);
      }
    } else if (JSON.stringify(next) !== JSON.stringify(snapshot)) {
      report.info('loaded new keys and certificates');
      use(next);
    }
    return next !== undefined;
  }

  function tryToRead(): SecretsSnapshot | undefined {
    try {
      const next = read();
      failure = undefined;
      return next;
    } catch (error) {
      failure = error;
      return undefined;
    }
  }

  function check(): void {
    const state = fileState(options);
    // Files that are being written are not read yet: of a pair one may be new and the other old.
    const isSettled = state === lastState;
    lastState = state;
    const hasChanged = state !== readState;
    if (isSettled && (hasChanged || isTransient(failure))) renew(hasChanged ? 'always' : 'on-change');
    if (ticketKeysFile === undefined && performance.now() - keyCreatedAt >= rotation) rotate();
  }

  function rotate(): void {
    randomKey = createTicketKey();
    keyCreatedAt = performance.now();
    use({ ...snapshot, ticketKey: randomKey });
  }

  function close(): void {
    clearInterval(timer);
    notify = () => {};
  }

  return {
    current: () => snapshot,
    reload: () => renew('always'),
    watch: (changed) => {
      close();
      notify = changed;
      // The timer must not keep the process alive.
      timer = setInterval(check, interval).unref();
    },
    close,
  };
}

/** Whether reading may succeed later without a change to the files: too many files were open, for example. */
function isTransient(failure: unknown): boolean {
  return failure instanceof Failure && failure.status === EXIT.systemCallFailed;
}

function createTicketKey(): string {
  return randomBytes(TICKET_KEYS_LENGTH).toString('base64');
}

/** The state of all files as a string, which differs when one of them may have changed. */
function fileState({ environment, credentialOptions, ticketKeysFile }: SecretsOptions): string {
  try {
    const paths = credentialPaths(environment, credentialOptions);
    if (ticketKeysFile !== undefined) paths.push(ticketKeysFile);
    return paths.map((path) => `${path} ${statusOf(path)}`).join('\n');
  } catch (error) {
    // Usually a CADIR that cannot be listed. Reading it reports that.
    return errorCode(error);
  }
}

/** The identity, size and times of a file. Links are followed, so a link to another target differs. */
function statusOf(path: string): string {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs }: BigIntStats = statSync(path, { bigint: true });
    // The inode's change time too: a copy may preserve the modification time.
    return [dev, ino, size, mtimeNs, ctimeNs].join(' ');
  } catch (error) {
    return errorCode(error);
  }
}
