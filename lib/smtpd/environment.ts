import { type Endpoints, ucspiTcp } from '../net/endpoints.ts';
import { withoutListeners } from '../server/listen/listeners.ts';
import { withoutTlsVariables } from '../tls/credentials.ts';
import { withoutTlsSession } from '../ucspi/control.ts';
import { withoutUcspiTls } from '../ucspi/environment.ts';
import { type StartSmtpd, smtpdProgram } from './program.ts';
import { type Backend, smtpdOverTcp } from './remote.ts';

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
  // Made when it is needed: a thousand sessions would hold a thousand of them.
  return (tlsEnvironment) =>
    smtpdProgram(smtpd, {
      ...environment,
      ...(ends === undefined ? {} : ucspiTcp(ends)),
      ...(localHost === undefined ? {} : { TCPLOCALHOST: localHost }),
    })(tlsEnvironment);
}

/**
 * Our environment without what is ours alone, or tells of another TLS session than the client's: smtpd must
 * not see keys, or believe in TLS that is not there.
 */
export function environmentForSmtpd(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return [withoutListeners, withoutUcspiTls, withoutTlsSession, withoutTlsVariables].reduce(
    (rest, without) => without(rest),
    environment,
  );
}
