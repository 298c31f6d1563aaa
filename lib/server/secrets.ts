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

/** All that is secret at one moment: plain data, so that it may be passed to another process as JSON. */
export interface SecretsSnapshot {
  readonly files: CredentialFiles;
  /** The key for session tickets, for all three parts of it: 48 octets in base64. */
  readonly ticketKey: string;
}

/** Where secrets come from. */
export interface SecretsOptions {
  /** See `readCredentials`. */
  readonly environment: NodeJS.ProcessEnv;
  readonly credentialOptions: CredentialOptions;
  /** See `readTicketKeys`; undefined for random ones, made anew every `rotation`. */
  readonly ticketKeysFile: string | undefined;
  readonly report: Reporter;
  /** How often files are looked at, and how long they must have rested to be read, in milliseconds. */
  readonly interval?: number;
  /** How long random ticket keys are in use, in milliseconds; looked at every `interval`. */
  readonly rotation?: number;
}

/** What is secret, kept up to date. */
export interface Secrets {
  /** What is in use. */
  current(): SecretsSnapshot;
  /**
   * Reads all files again, now. What is not in order is refused with a warning, and the old stays in use.
   *
   * @returns whether they are in order. The watcher is told when they have another content.
   */
  reload(): boolean;
  /**
   * Has all changes told from now on: of files, once they rest and are in order, and of random ticket keys.
   * One can watch; the next one takes the place.
   */
  watch(changed: (snapshot: SecretsSnapshot) => void): void;
  /** Watches no more. */
  close(): void;
}

/**
 * Certificates are renewed every few weeks; ten seconds until the new one is in use are soon enough, and
 * enough for whoever copies two files one after the other.
 */
const INTERVAL = 5000;

/** An hour: whoever steals the keys can read what was said below TLS 1.3 in the sessions resumed in it. */
const ROTATION = 3_600_000;

/**
 * Reads all that is secret, and keeps it up to date.
 *
 * Files are looked at by a timer. To be told of changes by the system (fs.watch) would be more to do and
 * less to hear: what changes may be the target of a link, or a folder on the way there (the `live` of
 * certbot, the `..data` of Kubernetes), and on some file systems nothing is told at all. A look costs one
 * system call a file.
 *
 * @throws Failure (100, 111) when something is not in order.
 */
export function createSecrets(options: SecretsOptions): Secrets {
  const { environment, credentialOptions, ticketKeysFile, report } = options;
  const { interval = INTERVAL, rotation = ROTATION } = options;
  let randomKey = makeTicketKey();
  let madeAt = performance.now();
  // Looked at before they are read: what changes meanwhile is seen at the next look.
  let known = look(options);
  let seen = known;
  let snapshot = read();
  /** Why the last reading was refused. */
  let failure: unknown;
  let tell: (snapshot: SecretsSnapshot) => void = () => {};
  let timer: NodeJS.Timeout | undefined;

  function read(): SecretsSnapshot {
    return {
      files: readCredentials(environment, credentialOptions),
      ticketKey: ticketKeysFile === undefined ? randomKey : readTicketKeys(ticketKeysFile).toString('base64'),
    };
  }

  function use(next: SecretsSnapshot): void {
    snapshot = next;
    tell(next);
  }

  /** @param tells of a failure that is the same as the last one too. */
  function renew(tells: boolean): boolean {
    known = look(options);
    seen = known;
    const before = failure;
    const next = tryToRead();
    if (next === undefined) {
      const why = errorCode(failure);
      if (tells || before === undefined || why !== errorCode(before)) {
        report.warning(`${why}; the keys and certificates read before stay in use`);
      }
    } else if (JSON.stringify(next) !== JSON.stringify(snapshot)) {
      report.info('keys and certificates have changed and are in use');
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
    const now = look(options);
    // Files that are just being written are left alone: of a pair one may be new and the other old.
    const hasRested = now === seen;
    seen = now;
    if (hasRested && (now !== known || isTransient(failure))) renew(now !== known);
    if (ticketKeysFile === undefined && performance.now() - madeAt >= rotation) rotate();
  }

  function rotate(): void {
    randomKey = makeTicketKey();
    madeAt = performance.now();
    use({ ...snapshot, ticketKey: randomKey });
  }

  function close(): void {
    clearInterval(timer);
    tell = () => {};
  }

  return {
    current: () => snapshot,
    reload: () => renew(true),
    watch: (changed) => {
      close();
      tell = changed;
      // It is not the secrets that keep a process alive.
      timer = setInterval(check, interval).unref();
    },
    close,
  };
}

/** Whether what was refused may be read later though it looks the same: too many files are open, say. */
function isTransient(failure: unknown): boolean {
  return failure instanceof Failure && failure.status === EXIT.systemCallFailed;
}

function makeTicketKey(): string {
  return randomBytes(TICKET_KEYS_LENGTH).toString('base64');
}

/** What all files look like from outside; another string when one of them may have changed. */
function look({ environment, credentialOptions, ticketKeysFile }: SecretsOptions): string {
  try {
    const paths = credentialPaths(environment, credentialOptions);
    if (ticketKeysFile !== undefined) paths.push(ticketKeysFile);
    return paths.map((path) => `${path} ${lookAt(path)}`).join('\n');
  } catch (error) {
    // A CADIR that cannot be listed, as a rule. Reading it will say so.
    return errorCode(error);
  }
}

/** Follows links, so that another target is another file. */
function lookAt(path: string): string {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs }: BigIntStats = statSync(path, { bigint: true });
    // The time of the inode too: copying may keep that of the content.
    return [dev, ino, size, mtimeNs, ctimeNs].join(' ');
  } catch (error) {
    return errorCode(error);
  }
}
