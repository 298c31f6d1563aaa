import type { Socket } from 'node:net';
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
