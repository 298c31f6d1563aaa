/** The signals that shut a program down gracefully, and that a chain passes down. */
const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

/**
 * Calls `pass` for the signals that would otherwise end this process.
 *
 * @param pass must make the process end.
 */
export function passSignals(pass: (signal: NodeJS.Signals) => void): void {
  for (const signal of SIGNALS) process.on(signal, pass);
}
