import { isIP, Socket } from 'node:net';
import { type Endpoint, plainAddress } from './address.ts';

/** The two ends of a connection. */
export interface Endpoints {
  readonly remote: Endpoint;
  readonly local: Endpoint;
}

/** The ends of a connection as the system reports them; undefined when it has already ended. */
export function endpointsOf(socket: Socket): Endpoints | undefined {
  const { remoteAddress, remotePort, localAddress, localPort } = socket;
  if (remoteAddress === undefined || remotePort === undefined) return undefined;
  if (localAddress === undefined || localPort === undefined) return undefined;
  return {
    remote: { ip: plainAddress(remoteAddress), port: remotePort },
    local: { ip: plainAddress(localAddress), port: localPort },
  };
}

/**
 * The ends of the connection on descriptor 0, which is not read, written or closed and can still be opened later.
 *
 * It becomes non-blocking. Node makes it blocking again when it passes it to a program as its standard input.
 *
 * @returns undefined when it is not a TCP connection, or has ended.
 */
function endpointsOfStdin(): Endpoints | undefined {
  try {
    // A socket that is neither readable nor writable starts no I/O. It is not destroyed, because that removes the
    // descriptor from the event loop, where another socket may use it by then. libuv never closes descriptor 0.
    return endpointsOf(new Socket({ fd: 0, readable: false, writable: false }));
  } catch {
    return undefined;
  }
}

/**
 * The ends of a connection as given in the environment by a server above.
 *
 * @param prefix TCP for tcpserver and compatible servers, SSL for sslserver.
 * @returns undefined when one is missing or malformed.
 */
export function endpointsIn(environment: NodeJS.ProcessEnv, prefix: 'TCP' | 'SSL'): Endpoints | undefined {
  const remote = endpoint(environment[`${prefix}REMOTEIP`], environment[`${prefix}REMOTEPORT`]);
  const local = endpoint(environment[`${prefix}LOCALIP`], environment[`${prefix}LOCALPORT`]);
  return remote === undefined || local === undefined ? undefined : { remote, local };
}

function endpoint(ip = '', port = ''): Endpoint | undefined {
  if (isIP(ip) === 0 || !/^\d{1,5}$/.test(port) || Number(port) > 65535) return undefined;
  return { ip: plainAddress(ip), port: Number(port) };
}

/**
 * The environment of a program that has the connection on descriptor 0. When TCPREMOTEIP is missing, as under
 * sslserver and inetd, the variables of UCSPI-TCP are derived from those of sslserver, or otherwise from the
 * connection. Variables that are set keep their values, except PROTO.
 */
export function withUcspiTcp(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  if (environment.TCPREMOTEIP !== undefined) return environment;
  const named = endpointsIn(environment, 'SSL');
  const ends = named ?? endpointsOfStdin();
  if (ends === undefined) return environment;
  const derived = ucspiTcp(ends);
  for (const name of named === undefined ? [] : ['REMOTEHOST', 'REMOTEINFO', 'LOCALHOST']) {
    const value = environment[`SSL${name}`];
    if (value !== undefined) derived[`TCP${name}`] = value;
  }
  return { ...derived, ...environment, PROTO: derived.PROTO };
}

/** The variables that tcpserver and s6-tcpserver set, always or optionally. */
const UCSPI_TCP = /^(?:PROTO|TCP(?:LOCAL|REMOTE)(?:IP|PORT|HOST|INFO))$/;

/** The environment without the variables in which an outer server describes another connection. */
export function withoutUcspiTcp(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !UCSPI_TCP.test(name)));
}

/** The variables of UCSPI-TCP that describe a connection to smtpd. */
export function ucspiTcp({ remote, local }: Endpoints): NodeJS.ProcessEnv {
  return {
    PROTO: 'TCP',
    TCPLOCALIP: local.ip,
    TCPLOCALPORT: String(local.port),
    TCPREMOTEIP: remote.ip,
    TCPREMOTEPORT: String(remote.port),
  };
}

/**
 * TCP keepalive options for node:net: probes start after two minutes without traffic. Without them the relay would
 * not notice a peer that has disappeared without closing the connection.
 */
export const KEEPALIVE = { keepAlive: true, keepAliveInitialDelay: 120_000 } as const;
