import { statSync } from 'node:fs';
import { explain } from './explain.ts';
import { errorCode, Failure } from './failure.ts';

/** The default of PATH: the union of the defaults of the C libraries, which differ. */
const DEFAULT_PATH = '/usr/local/bin:/bin:/usr/bin';

/** The permission bits to execute a file, of user, group and others. */
const EXECUTABLE = 0o111;

/**
 * Checks that a program can be started, by the rules of execvp(3). Only what holds for all users is checked, because
 * another user may start it; other errors appear when it is started.
 *
 * @param file a path if it contains a slash, otherwise a name to search for in PATH.
 * @param path the value of PATH.
 * @throws Failure (127) when there is no such file; (126) when no user can execute it.
 */
export function checkProgram(file: string, path = DEFAULT_PATH): void {
  // An empty element of PATH is the working directory.
  const candidates = file.includes('/')
    ? [file]
    : path.split(':').map((folder) => `${folder || '.'}/${file}`);
  const codes = candidates.map(startError);
  if (codes.includes(undefined)) return;
  const code = codes.includes('EACCES') ? 'EACCES' : codes.at(-1);
  throw new Failure(code === 'ENOENT' ? 127 : 126, `cannot run ${file}: ${explain('run', code)}`);
}

/** The error code that starting a file is certain to fail with; undefined when it may succeed. */
function startError(path: string): string | undefined {
  try {
    const stats = statSync(path);
    return stats.isFile() && (stats.mode & EXECUTABLE) !== 0 ? undefined : 'EACCES';
  } catch (error) {
    const code = errorCode(error);
    // A folder without access for this user, for example, may be accessible to the user that starts the program.
    return code === 'ENOENT' || code === 'ENOTDIR' ? code : undefined;
  }
}
