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
   */
  watch(changed: (snapshot: SecretsSnapshot) => void): void;
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
  const { environment, credentialOptions, relay, ticketKeysFile, report } = options;
  const kinds = kindsOf(relay);
  const { interval = CHECK_INTERVAL, rotation = ROTATION } = options;
  let randomKey = createTicketKey();
  let keyCreatedAt = performance.now();
  // Created before the files are read: a change meanwhile is noticed at the next check.
  const files = watchFiles({ paths: () => pathsOf(options), changed: renew, interval });
  let snapshot = read();
  /** Why the last attempt to read failed; undefined when it succeeded. */
  let failure: unknown;
  let notify: (snapshot: SecretsSnapshot) => void = () => {};
  let rotationTimer: NodeJS.Timeout | undefined;

  function read(): SecretsSnapshot {
    return {
      ...(credentialOptions && { files: readCredentials(environment, credentialOptions) }),
      ...(relay && { relay: readRelaySecrets({ environment, ...relay }) }),
      ticketKey: ticketKeysFile === undefined ? randomKey : readTicketKeys(ticketKeysFile).toString('base64'),
    };
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
  }

  return {
    current: () => snapshot,
    reload: () => {
      files.markRead();
      // The caller expects a warning, even if it is the same again.
      failure = undefined;
      return renew();
    },
    watch: (changed) => {
      close();
      notify = changed;
      files.start();
      // The timer must not keep the process alive.
      if (ticketKeysFile === undefined) rotationTimer = setInterval(rotateWhenDue, interval).unref();
    },
    close,
  };
}

/** What is read, for messages. */
function kindsOf(relay: SecretsOptions['relay']): string {
  if (relay === undefined) return 'keys and certificates';
  return `keys, certificates${relay.routesFile === undefined ? ' and credentials' : ', credentials and routes'}`;
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
  const { environment, credentialOptions, relay, ticketKeysFile } = options;
  return [
    ...(credentialOptions === undefined ? [] : credentialPaths(environment, credentialOptions)),
    ...(relay === undefined ? [] : relaySecretPaths({ environment, ...relay })),
    ...(ticketKeysFile === undefined ? [] : [ticketKeysFile]),
  ];
}
