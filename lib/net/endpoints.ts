import { isIP, Socket } from 'node:net';
import { type Endpoint, plainAddress } from './address.ts';

/** The two ends of a connection. */
export interface Endpoints {
  readonly remote: Endpoint;
  readonly local: Endpoint;
}

/** The ends of a connection as the system tells them; undefined when it has ended already. */
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
 * The ends of the connection on descriptor 0. It is neither read, written nor closed, and may be opened later
 * as if this had not been called.
 *
 * It becomes non-blocking. Node makes it blocking again when it passes it to a program as its standard input.
 *
 * @returns undefined when it is not a TCP connection, or has ended.
 */
function endpointsOfStdin(): Endpoints | undefined {
  try {
    // Nothing is started for a socket that is neither readable nor writable. It is not destroyed, because that
    // removes the descriptor from the event loop, where another socket may wait for it by then. libuv never
    // closes descriptor 0.
    return endpointsOf(new Socket({ fd: 0, readable: false, writable: false }));
  } catch {
    return undefined;
  }
}

/**
 * The ends of a connection as a server above has put them in the environment.
 *
 * @param prefix TCP for tcpserver and its like, SSL for sslserver.
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
 * The environment of a program that is given the connection on descriptor 0. Where TCPREMOTEIP is missing, as
 * under sslserver and inetd, the variables of UCSPI-TCP are derived from those of sslserver, or else from the
 * connection. What is set stays, but for PROTO.
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

/** What tcpserver and s6-tcpserver set, and what they set at will. */
const UCSPI_TCP = /^(?:PROTO|TCP(?:LOCAL|REMOTE)(?:IP|PORT|HOST|INFO))$/;

/** The environment without what an outer server has said of another connection. */
export function withoutUcspiTcp(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(environment).filter(([name]) => !UCSPI_TCP.test(name)));
}

/** The variables of UCSPI-TCP that tell smtpd of its connection. */
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
 * How connections are kept, as node:net takes it. One whose other side is gone without a word is asked after two
 * minutes of silence whether it is there: in the relay nobody else would notice.
 */
export const KEEPALIVE = { keepAlive: true, keepAliveInitialDelay: 120_000 } as const;
