import { type StartSmtpd, smtpdProgram } from '../session/smtpd.ts';
import { type Backend, smtpdOverTcp } from './backend.ts';
import { type Endpoints, ucspiTcp } from './endpoints.ts';

/** The smtpd: a program, looked for along PATH, and its arguments; or a server on the network. */
export type Smtpd = readonly string[] | Backend;

/**
 * How to start the smtpd of a connection.
 *
 * @param ends of the connection, which it is told; undefined to leave that to `environment`.
 * @param localHost TCPLOCALHOST, if not that of `environment`.
 */
export function smtpdFor(
  smtpd: Smtpd,
  ends: Endpoints | undefined,
  environment: NodeJS.ProcessEnv,
  localHost: string | undefined,
): StartSmtpd {
  if ('host' in smtpd) return smtpdOverTcp(smtpd, ends);
  return smtpdProgram(smtpd, {
    ...environment,
    ...(ends === undefined ? {} : ucspiTcp(ends)),
    ...(localHost === undefined ? {} : { TCPLOCALHOST: localHost }),
  });
}
