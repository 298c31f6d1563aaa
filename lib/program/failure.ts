/** Exit statuses as the chains of s6 and tcpserver know them. */
export const EXIT = {
  success: 0,
  wrongUsage: 100,
  systemCallFailed: 111,
} as const;

/**
 * A reason to end the program, thrown where it is found and turned into one line on stderr and an exit
 * status by `runProgram`.
 */
export class Failure extends Error {
  /**
   * The exit status: 100 for wrong usage, 111 for a failed system call, 126 for a program that cannot be
   * executed, 127 for one that is not there.
   */
  readonly status: number;

  /**
   * @param status the exit status.
   * @param message what could not be done and why, in the form "unable to do a thing: why".
   */
  constructor(status: number, message: string) {
    super(message);
    this.status = status;
  }
}

/**
 * A short name for what went wrong: "ENOENT" where the system gave a code, else the message.
 *
 * @param error whatever was thrown.
 */
export function errorCode(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message;
}
