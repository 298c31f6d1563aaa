import { closeSync, fsyncSync, linkSync, openSync, renameSync, unlinkSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { errorCode } from '../../program/failure.ts';
import { messagePaths, syncDirectory, uniqueName } from './maildir.ts';

/** One message on its way into a Maildir. */
export interface Delivery {
  /** What it is called there. */
  readonly id: string;
  /** Adds to it. @throws when the system does not. */
  write(bytes: Uint8Array): void;
  /**
   * Puts it into new/, where readers see it. When this returns, it survives the loss of power.
   *
   * @throws when the system does not allow it; then it is not in new/.
   */
  store(): void;
  /** Removes what is left of it in tmp/. May be called more than once, and does nothing once it is stored. */
  discard(): void;
}

/**
 * Begins to deliver a message: makes its file in tmp/.
 *
 * All calls wait for the system, and with them the whole process. It serves one client, who waits as well.
 *
 * @throws when the system does not allow it.
 */
export function beginDelivery(maildir: string, host: string): Delivery {
  const id = uniqueName(host);
  const { temporary, final } = messagePaths(maildir, id);
  const fd = openSync(temporary, 'wx', 0o600);
  let open = true;

  function discard(): void {
    if (!open) return;
    open = false;
    remove(temporary);
    close(fd);
  }

  return {
    id,
    write: (bytes) => {
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
    },
    store: () => {
      fsyncSync(fd);
      publish(temporary, final);
      try {
        syncDirectory(dirname(final));
      } catch (error) {
        // The client is about to hear that it has to send the message again.
        remove(final);
        throw error;
      }
      discard();
    },
    discard,
  };
}

/**
 * Gives the file its second name. A link, because it never replaces another message; a rename where the
 * file system has no links (those of some containers and virtual machines).
 */
function publish(temporary: string, final: string): void {
  try {
    linkSync(temporary, final);
  } catch (error) {
    if (errorCode(error) === 'EEXIST') throw error;
    renameSync(temporary, final);
  }
}

/** Closes a file of which nothing more is expected: it was written out, or nobody wants it. */
function close(fd: number): void {
  try {
    closeSync(fd);
  } catch {
    // NFS tells here of what it could not write. It has told at fsync already.
  }
}

/** Removes a file. One that cannot be removed does no harm in tmp/: readers clean up after 36 hours. */
function remove(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // It is gone already, or the reason is about to be told by whoever calls.
  }
}
