/** The smtpds behind the systems that are compared. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onPath } from './path.ts';

/** An smtpd on descriptors 0 and 1. */
export interface Smtpd {
  /** As the table names it. */
  readonly name: string;
  /** Its command line, the program with its whole path. */
  readonly command: readonly string[];
}

/**
 * mailfront's, which reads commands as a real one does and keeps no mail.
 *
 * @returns undefined when it is not installed.
 */
export function mailfront(): Smtpd | undefined {
  const path = onPath('mailfront');
  return path === undefined ? undefined : { name: 'mailfront', command: [path, 'smtp', 'echo', 'accept'] };
}

/**
 * An smtpd that costs as little as possible: in C if there is a compiler, otherwise in sh; its name has the language.
 *
 * @param folder where the compiled program may lie until the end.
 */
export function nullSmtpd(folder: string): Smtpd {
  const path = join(folder, 'null-smtpd');
  const source = fileURLToPath(new URL('null-smtpd.c', import.meta.url));
  for (const kind of ['static', 'dynamic']) {
    const { status } = spawnSync('cc', [
      '-O2',
      ...(kind === 'static' ? ['-static'] : []),
      '-o',
      path,
      source,
    ]);
    if (status === 0) return { name: `null (C, ${kind})`, command: [path] };
  }
  const script = fileURLToPath(new URL('null-smtpd.sh', import.meta.url));
  return { name: 'null (sh)', command: ['/bin/sh', script] };
}
