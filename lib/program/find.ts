import { statSync } from 'node:fs';
import { errorCode, Failure } from './failure.ts';

/** Where programs are looked for when PATH is not set: the C libraries differ, and these are all of theirs. */
const DEFAULT_PATH = '/usr/local/bin:/bin:/usr/bin';

/** Any of the bits of a mode that let somebody execute a file. */
const EXECUTABLE = 0o111;

/**
 * Checks that a program can be started, by the rules of execvp(3), and by what holds for all users: whoever
 * starts it may be another one. What cannot be known is left to the start itself.
 *
 * @param file a path, when there is a slash in it, or else a name to look for along PATH.
 * @param path the value of PATH.
 * @throws Failure (127) when there is no such file; (126) when nobody can execute it.
 */
export function checkProgram(file: string, path = DEFAULT_PATH): void {
  // An empty part of PATH is the working directory.
  const candidates = file.includes('/')
    ? [file]
    : path.split(':').map((folder) => `${folder || '.'}/${file}`);
  const codes = candidates.map(startError);
  if (codes.includes(undefined)) return;
  const code = codes.includes('EACCES') ? 'EACCES' : codes.at(-1);
  throw new Failure(code === 'ENOENT' ? 127 : 126, `cannot run ${file}: ${code}`);
}

/** The error that the start of a file is sure to fail with. */
function startError(path: string): string | undefined {
  try {
    const stats = statSync(path);
    return stats.isFile() && (stats.mode & EXECUTABLE) !== 0 ? undefined : 'EACCES';
  } catch (error) {
    const code = errorCode(error);
    // A folder that this user may not look into, say, may be open to the one who starts the program.
    return code === 'ENOENT' || code === 'ENOTDIR' ? code : undefined;
  }
}
