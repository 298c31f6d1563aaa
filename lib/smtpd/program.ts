import type { Reporter } from '../program/reporter.ts';
import { startProgram } from './process.ts';
import type { Smtpd, SmtpdEnd } from './smtpd.ts';

/**
 * Reports that smtpd ended unexpectedly or could not be started.
 *
 * @param what what happened, the first part of the message.
 * @param end how smtpd ended, as `endAfterOutput` returns it.
 */
export function reportEnd(report: Reporter, what: string, end: SmtpdEnd | undefined): void {
  if (end?.failure !== undefined) report.fatal(end.failure);
  else report.warning(`${what}: ${describeEnd(end)}`);
}

/** Describes how smtpd ended, or why it could not be started, as the last part of a message. */
export function describeEnd(end: SmtpdEnd | undefined): string {
  if (end === undefined) return 'it closed its output';
  return end.failure ?? describeStatus(end);
}

/** Describes its exit status, its signal, or what is in place of them, without what is for the log alone. */
export function describeStatus({ status, signal, description }: SmtpdEnd): string {
  if (signal !== undefined) return `killed by ${signal}`;
  return description ?? `exit status ${status}`;
}

/**
 * Starts an smtpd.
 *
 * @param tlsEnvironment variables that describe the TLS session, undefined for one that must not be set; empty if
 * there is no TLS session.
 */
export type StartSmtpd = (tlsEnvironment: Readonly<Record<string, string | undefined>>) => Smtpd;

/**
 * An smtpd that is a program.
 *
 * @param command the program, searched in PATH, and its arguments.
 * @param environment its environment, but for TLS.
 */
export function smtpdProgram(command: readonly string[], environment: NodeJS.ProcessEnv): StartSmtpd {
  return (tlsEnvironment) => startProgram(command, changed(environment, tlsEnvironment));
}

/** An environment with other values for some variables; undefined for one that is removed. */
export function changed(
  environment: NodeJS.ProcessEnv,
  changes: Readonly<Record<string, string | undefined>>,
): NodeJS.ProcessEnv {
  const merged = { ...environment, ...changes };
  for (const name of Object.keys(changes)) if (merged[name] === undefined) delete merged[name];
  return merged;
}
