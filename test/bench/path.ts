import { accessSync, constants } from 'node:fs';
import { join } from 'node:path';

/** PATH, and where administrators' programs lie, which the PATH of a user may lack. */
export const SEARCH_PATH = `${process.env.PATH ?? '/usr/bin:/bin'}:/usr/local/sbin:/usr/sbin:/sbin`;

/** Finds a program as a shell would. @returns its whole path; undefined when it is not installed. */
export function onPath(name: string): string | undefined {
  return SEARCH_PATH.split(':')
    .filter(Boolean)
    .map((folder) => join(folder, name))
    .find(isProgram);
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
