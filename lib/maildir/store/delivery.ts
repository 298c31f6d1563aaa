import { closeSync, fsyncSync, linkSync, openSync, renameSync, unlinkSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { errorCode } from '../../program/failure.ts';
import { messagePaths, syncDirectory, uniqueName } from './maildir.ts';

/** The delivery of one message to a Maildir. */
export interface Delivery {
  /** The name of the file. */
  readonly id: string;
  /** Appends to the message. @throws when a system call fails. */
  write(bytes: Uint8Array): void;
  /**
   * Moves the message to new/, where mail readers find it. When this returns, it survives a power failure.
   *
   * @throws when a system call fails; the message is not in new/ then.
   */
  store(): void;
  /** Removes the file in tmp/. May be called more than once, and has no effect after `store`. */
  discard(): void;
}

/**
 * Starts the delivery of a message: creates its file in tmp/.
 *
 * All system calls are synchronous: the process serves one client, which waits for them anyway.
 *
 * @param host the name of this host, which becomes part of the file name.
 * @throws when a system call fails.
 */
export function startDelivery(maildir: string, host: string): Delivery {
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
        // The client gets a 451 and will send the message again.
        remove(final);
        throw error;
      }
      discard();
    },
    discard,
  };
}

/**
 * Gives the file its name in new/: by link, which never replaces another message, or by rename where the file
 * system has no hard links (those of some containers and virtual machines).
 */
function publish(temporary: string, final: string): void {
  try {
    linkSync(temporary, final);
  } catch (error) {
    if (errorCode(error) === 'EEXIST') throw error;
    renameSync(temporary, final);
  }
}

/** Closes a file that is synced or discarded. */
function close(fd: number): void {
  try {
    closeSync(fd);
  } catch {
    // NFS reports write errors here, but it has reported them at fsync before.
  }
}

/** Removes a file. One that remains in tmp/ does no harm: mail readers remove it after 36 hours. */
function remove(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // It is gone already, or the caller reports an error of its own.
  }
}
