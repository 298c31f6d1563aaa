import { randomBytes } from 'node:crypto';
import { EXIT, errorCode, Failure } from '../program/failure.ts';
import type { Reporter } from '../program/reporter.ts';
import { CHECK_INTERVAL, watchFiles } from '../program/watch-files.ts';
import {
  type RelaySecrets,
  type RelaySecretsOptions,
  readRelaySecrets,
  relaySecretPaths,
} from '../smtpd/relay/secrets.ts';
import { readSrsKeysFile } from '../smtpd/srs/keys-file.ts';
import {
  type CredentialFiles,
  type CredentialOptions,
  credentialPaths,
  readCredentials,
} from '../tls/credentials.ts';
import { readTicketKeys, TICKET_KEYS_LENGTH } from '../tls/ticket-keys.ts';

/** Keys and certificates at one moment: plain data, so that they can be sent to another process as JSON. */
export interface SecretsSnapshot {
  /** Undefined for a server without TLS. */
  readonly files?: CredentialFiles;
  /** For servers that URLs name; undefined if there are none. */
  readonly relay?: RelaySecrets;
  /** The keys of SRS in base64, the one that signs first; undefined without SRS. */
  readonly srsKeys?: readonly [string, ...string[]];
  /** The key for session tickets, all three parts of it: 48 octets in base64. */
  readonly ticketKey: string;
}

/** Where secrets come from. */
export interface SecretsOptions {
  /** See `readCredentials`. */
  readonly environment: NodeJS.ProcessEnv;
  /** Undefined for a server without TLS, which needs no keys. */
  readonly credentialOptions: CredentialOptions | undefined;
  /** Undefined if mail is not passed on to servers that URLs name. */
  readonly relay?: Omit<RelaySecretsOptions, 'environment'> | undefined;
  /** See `readSrsKeysFile`; undefined without SRS. */
  readonly srsKeysFile?: string | undefined;
  /** See `readTicketKeys`; undefined for random keys, replaced every `rotation`. */
  readonly ticketKeysFile: string | undefined;
  readonly report: Reporter;
  /** How often files and the age of random ticket keys are checked, in milliseconds. */
  readonly interval?: number;
  /** How long random ticket keys are used, in milliseconds. */
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
   *
   * @param reloaded is called after each attempt to read the files again, changed or not, with whether they are valid.
   */
  watch(changed: (snapshot: SecretsSnapshot) => void, reloaded?: (isValid: boolean) => void): void;
  /** Stops watching. */
  close(): void;
}

/** One hour: with stolen ticket keys, sessions resumed in that time below TLS 1.3 can be decrypted. */
const ROTATION = 3_600_000;

/**
 * Reads keys and certificates, and keeps them up to date.
 *
 * @throws Failure (100, 111) when they cannot be read or are not valid.
 */
export function createSecrets(options: SecretsOptions): Secrets {
  const { environment, credentialOptions, relay, srsKeysFile, ticketKeysFile, report } = options;
  const kinds = kindsOf(options);
  const { interval = CHECK_INTERVAL, rotation = ROTATION } = options;
  let randomKey = createTicketKey();
  let keyCreatedAt = performance.now();
  // Created before the files are read: a change meanwhile is noticed at the next check.
  const files = watchFiles({ paths: () => pathsOf(options), changed: renew, interval });
  let snapshot = read();
  /** Why the last attempt to read failed; undefined when it succeeded. */
  let failure: unknown;
  let notify: (snapshot: SecretsSnapshot) => void = () => {};
  let notifyReloaded: (isValid: boolean) => void = () => {};
  let rotationTimer: NodeJS.Timeout | undefined;

  function read(): SecretsSnapshot {
    return {
      ...(credentialOptions && { files: readCredentials(environment, credentialOptions) }),
      ...(relay && { relay: readRelaySecrets({ environment, ...relay }) }),
      ...(srsKeysFile !== undefined && { srsKeys: readSrsKeys(srsKeysFile) }),
      ticketKey: ticketKeysFile === undefined ? randomKey : readTicketKeys(ticketKeysFile).toString('base64'),
    };
  }

  function readSrsKeys(path: string): NonNullable<SecretsSnapshot['srsKeys']> {
    const [first, ...others] = readSrsKeysFile('--srs-keys', path, report);
    return [first.toString('base64'), ...others.map((key) => key.toString('base64'))];
  }

  function use(next: SecretsSnapshot): void {
    snapshot = next;
    notify(next);
  }

  /** Reads everything again. @returns whether it is valid. */
  function renew(): boolean {
    const before = failure;
    const next = tryToRead();
    if (next === undefined) {
      const why = errorCode(failure);
      // Each retry fails with the same error.
      if (!isTransient(before) || why !== errorCode(before)) {
        report.warning(`${why}; keeping the previous ${kinds}`);
      }
      if (isTransient(failure)) files.retry();
    } else if (JSON.stringify(next) !== JSON.stringify(snapshot)) {
      report.info(`loaded new ${kinds}`);
      use(next);
    }
    notifyReloaded(next !== undefined);
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

  function rotateWhenDue(): void {
    if (performance.now() - keyCreatedAt < rotation) return;
    randomKey = createTicketKey();
    keyCreatedAt = performance.now();
    use({ ...snapshot, ticketKey: randomKey });
  }

  function close(): void {
    files.stop();
    clearInterval(rotationTimer);
    notify = () => {};
    notifyReloaded = () => {};
  }

  return {
    current: () => snapshot,
    reload: () => {
      files.markRead();
      // The caller expects a warning, even if it is the same again.
      failure = undefined;
      return renew();
    },
    watch: (changed, reloaded = () => {}) => {
      close();
      notify = changed;
      notifyReloaded = reloaded;
      files.start();
      // The timer must not keep the process alive.
      if (ticketKeysFile === undefined) rotationTimer = setInterval(rotateWhenDue, interval).unref();
    },
    close,
  };
}

/** What is read, for messages. */
function kindsOf({ relay, srsKeysFile }: SecretsOptions): string {
  const kinds = [
    ...['keys', 'certificates'],
    ...(relay === undefined ? [] : ['credentials']),
    ...(relay?.routesFile === undefined ? [] : ['routes']),
    ...(srsKeysFile === undefined ? [] : ['SRS keys']),
  ];
  return `${kinds.slice(0, -1).join(', ')} and ${kinds.at(-1)}`;
}

/** Whether reading may succeed later without a change to the files: too many files were open, for example. */
function isTransient(failure: unknown): boolean {
  return failure instanceof Failure && failure.status === EXIT.systemCallFailed;
}

function createTicketKey(): string {
  return randomBytes(TICKET_KEYS_LENGTH).toString('base64');
}

/** The paths of all files. @throws Failure as `credentialPaths` and `relaySecretPaths`. */
function pathsOf(options: SecretsOptions): readonly string[] {
  const { environment, credentialOptions, relay, srsKeysFile, ticketKeysFile } = options;
  return [
    ...(credentialOptions === undefined ? [] : credentialPaths(environment, credentialOptions)),
    ...(relay === undefined ? [] : relaySecretPaths({ environment, ...relay })),
    ...[srsKeysFile, ticketKeysFile].filter((path) => path !== undefined),
  ];
}
