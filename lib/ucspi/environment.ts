import { EXIT, Failure } from '../program/failure.ts';
import { inheritedKind, isClosedOnExec } from '../stream/descriptor.ts';

/** The descriptors that a UCSPI-TLS server gives to a program; some may be the same. */
export interface UcspiTls {
  /** SSLCTLFD: the control socket. */
  readonly control: number;
  /** SSLREADFD: the decrypted data from the client. */
  readonly read: number;
  /** SSLWRITEFD: the data to be encrypted for the client. */
  readonly write: number;
}

/** The variables in which a UCSPI-TLS server passes these descriptors to its program. */
export const UCSPI_TLS_VARIABLES = { control: 'SSLCTLFD', read: 'SSLREADFD', write: 'SSLWRITEFD' } as const;

/**
 * Finds the descriptors of the UCSPI-TLS server that this program runs under.
 *
 * @throws Failure (100) that names the variable that is missing, is not a number, or names a descriptor that
 * is not open, is not of the right type, or would be inherited by smtpd.
 */
export function readUcspiTls(environment: NodeJS.ProcessEnv): UcspiTls {
  return {
    control: readDescriptor(environment, UCSPI_TLS_VARIABLES.control, ['socket']),
    read: readDescriptor(environment, UCSPI_TLS_VARIABLES.read, ['socket', 'pipe']),
    write: readDescriptor(environment, UCSPI_TLS_VARIABLES.write, ['socket', 'pipe']),
  };
}

function readDescriptor(environment: NodeJS.ProcessEnv, name: string, kinds: readonly string[]): number {
  const text = environment[name];
  if (text === undefined) throw refusal(`${name} is not set; is there a UCSPI-TLS server above?`);
  if (!/^\d{1,9}$/.test(text)) throw refusal(`${name} is not a descriptor number: ${text}`);
  const fd = Number(text);
  if (fd <= 2) throw refusal(`${name} names descriptor ${fd}, which is a standard descriptor`);
  const kind = inheritedKind(fd);
  if (kind === undefined) throw refusal(`${name} names descriptor ${fd}, which is not open`);
  if (!kinds.includes(kind))
    throw refusal(`${name} names descriptor ${fd}, which is not a ${kinds.join(' or ')}`);
  if (!isClosedOnExec(fd)) throw refusal(`${name} names descriptor ${fd}, too high to be closed in smtpd`);
  return fd;
}

function refusal(why: string): Failure {
  return new Failure(EXIT.wrongUsage, `unable to find the UCSPI-TLS server: ${why}`);
}

/** The environment without the variables that name descriptors of a UCSPI-TLS server. */
export function withoutUcspiTls(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const { SSLCTLFD, SSLREADFD, SSLWRITEFD, ...rest } = environment;
  return rest;
}

/**
 * Whether the UCSPI-TLS server above is sslserver, which ends its program when the control socket is
 * closed. To s6-ucspitlsd and ucspi-tlsd that means that TLS will not be requested. Only sslserver sets both
 * SSLLOCALIP and SSLREMOTEIP.
 */
export function isSslserver(environment: NodeJS.ProcessEnv): boolean {
  return environment.SSLLOCALIP !== undefined && environment.SSLREMOTEIP !== undefined;
}

/** The address of the client, for messages. */
export function remoteAddress(environment: NodeJS.ProcessEnv): string {
  return environment.TCPREMOTEIP ?? environment.SSLREMOTEIP ?? 'an unknown address';
}
