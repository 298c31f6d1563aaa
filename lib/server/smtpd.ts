import { type StartSmtpd, smtpdProgram } from '../session/smtpd.ts';
import { type Backend, smtpdOverTcp } from './backend.ts';
import { type Endpoints, ucspiTcp } from './endpoints.ts';

/** The smtpd: a program, looked for along PATH, and its arguments; or a server on the network. */
export type Smtpd = readonly string[] | Backend;

/**
 * How to start the smtpd of a connection.
 *
 * @param ends what it is told of the connection; undefined to tell it nothing but what `environment` does.
 * @param localHost TCPLOCALHOST; undefined to leave it out.
 */
export function smtpdFor(
  smtpd: Smtpd,
  ends: Endpoints | undefined,
  environment: NodeJS.ProcessEnv,
  localHost: string | undefined,
): StartSmtpd {
  if ('host' in smtpd) return smtpdOverTcp(smtpd, ends);
  return smtpdProgram(
    smtpd,
    ends === undefined ? environment : { ...environment, ...ucspiTcp(ends, localHost) },
  );
}
