import { type Endpoints, ucspiTcp } from '../net/endpoints.ts';
import { withoutSystemdVariables } from '../program/systemd.ts';
import { withoutTlsVariables } from '../tls/credentials.ts';
import { withoutTlsSession } from '../ucspi/control.ts';
import { withoutUcspiTls } from '../ucspi/environment.ts';
import { type StartSmtpd, smtpdProgram } from './program.ts';
import { type Backend, remoteSmtpd } from './remote.ts';

/** The smtpd: a program, searched in PATH, and its arguments; or a server that is connected to. */
export type SmtpdSpec = readonly string[] | Backend;

/**
 * Returns the function that starts the smtpd of a connection.
 *
 * @param ends the addresses of the connection, for smtpd's environment; undefined to keep those in `environment`.
 * @param environment smtpd's environment, but for TLS.
 * @param localHost TCPLOCALHOST; undefined to keep that of `environment`.
 */
export function smtpdFor(
  smtpd: SmtpdSpec,
  ends: Endpoints | undefined,
  environment: NodeJS.ProcessEnv,
  localHost: string | undefined,
): StartSmtpd {
  if ('address' in smtpd) return remoteSmtpd(smtpd, ends);
  // The environment is built at the start of smtpd, so that waiting sessions do not hold a copy each.
  return (tlsEnvironment) =>
    smtpdProgram(smtpd, environmentFor(environment, ends, localHost))(tlsEnvironment);
}

/** The environment of an smtpd for one connection, but for TLS. The parameters are as in `smtpdFor`. */
export function environmentFor(
  environment: NodeJS.ProcessEnv,
  ends: Endpoints | undefined,
  localHost: string | undefined,
): NodeJS.ProcessEnv {
  return {
    ...environment,
    ...(ends === undefined ? {} : ucspiTcp(ends)),
    ...(localHost === undefined ? {} : { TCPLOCALHOST: localHost }),
  };
}

/**
 * Returns our environment without the variables that are meant for us alone or describe another TLS session than the
 * client's: smtpd must not see keys, nor take a cleartext session for TLS.
 */
export function environmentForSmtpd(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return [withoutSystemdVariables, withoutUcspiTls, withoutTlsSession, withoutTlsVariables].reduce(
    (rest, without) => without(rest),
    environment,
  );
}
