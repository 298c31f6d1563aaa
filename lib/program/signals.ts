/** The signals that end a program in good order, and that a chain passes down. */
const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

/**
 * Has the signals that would end this process told to `pass` instead.
 *
 * @param pass is to see to it that the process ends.
 */
export function passSignals(pass: (signal: NodeJS.Signals) => void): void {
  for (const signal of SIGNALS) process.on(signal, pass);
}
