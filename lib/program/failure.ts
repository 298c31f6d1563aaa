/** Exit statuses, by the conventions of s6 and tcpserver. */
export const EXIT = {
  success: 0,
  wrongUsage: 100,
  systemCallFailed: 111,
} as const;

/**
 * An error that ends the program. `runProgram` reports it in one line on stderr and exits with its status.
 */
export class Failure extends Error {
  /**
   * The exit status: 100 for a usage error, 111 for a failed system call, 126 for a program that cannot be executed,
   * 127 for a program that does not exist.
   */
  readonly status: number;

  /**
   * @param status the exit status.
   * @param message what could not be done and why, in the form "unable to do something: why".
   */
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/**
 * A short name of an error: its code, such as "ENOENT", or otherwise its message.
 *
 * @param error any thrown value.
 */
export function errorCode(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message;
}
