import { type BigIntStats, statSync } from 'node:fs';
import { errorCode } from './failure.ts';

/**
 * How often files are checked, in milliseconds. A change is noticed within twice that, and files that are copied one
 * after the other in less than that are noticed together.
 */
export const CHECK_INTERVAL = 5000;

/** The files to watch. */
export interface FileWatchOptions {
  /** Returns the paths; called at each check. If it throws, the message counts as the state of the files. */
  readonly paths: () => readonly string[];
  /** Called when a file has changed and none has changed between the last two checks. */
  readonly changed: () => void;
  /** How often the files are checked, in milliseconds. */
  readonly interval?: number;
}

/** Files that are watched. */
export interface FileWatch {
  /** Starts to check. Changes since `watchFiles` or `markRead` was called are reported, too. */
  start(): void;
  /** Takes the files as they are now as known. To be called before they are read, except in `changed`. */
  markRead(): void;
  /** Calls `changed` once more even if nothing changes, because reading failed and may succeed later. */
  retry(): void;
  /** Stops checking. */
  stop(): void;
}

/**
 * Watches files for changes. The timer does not keep the process alive.
 *
 * Files that are being written are not reported yet: of a key and its certificate, one may be new and the other old.
 *
 * Files are checked by a timer, at one system call per file. fs.watch would take more code and miss changes: the
 * change may be to the target of a link, or to a directory on the way there (`live` of certbot, `..data` of
 * Kubernetes), and some file systems report no changes at all.
 */
export function watchFiles({ paths, changed, interval = CHECK_INTERVAL }: FileWatchOptions): FileWatch {
  let knownState = stateOf(paths);
  let lastState = knownState;
  let mustRetry = false;
  let timer: NodeJS.Timeout | undefined;

  function check(): void {
    const state = stateOf(paths);
    const isSettled = state === lastState;
    lastState = state;
    if (!isSettled || (state === knownState && !mustRetry)) return;
    knownState = state;
    mustRetry = false;
    changed();
  }

  function stop(): void {
    clearInterval(timer);
  }

  return {
    start: () => {
      stop();
      timer = setInterval(check, interval).unref();
    },
    markRead: () => {
      knownState = stateOf(paths);
      lastState = knownState;
      mustRetry = false;
    },
    retry: () => {
      mustRetry = true;
    },
    stop,
  };
}

/** The state of all files as a string, which differs when one of them may have changed. */
function stateOf(paths: () => readonly string[]): string {
  try {
    return paths()
      .map((path) => `${path} ${statusOf(path)}`)
      .join('\n');
  } catch (error) {
    // Usually a folder that cannot be listed. Reading it reports that.
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
