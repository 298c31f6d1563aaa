/** Behaves like sslserver -n, as far as a program can observe. */

import { runDouble } from './double/run.ts';

void runDouble({
  // Another order than in the other doubles: programs must not depend on one.
  numbers: { control: 5, read: 3, write: 4 },
  environment: {
    PROTO: 'SSL',
    SSLLOCALHOST: 'mail.example.org',
    SSLLOCALIP: process.env.TCPLOCALIP,
    SSLLOCALPORT: process.env.TCPLOCALPORT,
    SSLREMOTEHOST: 'client.example.org',
    SSLREMOTEIP: process.env.TCPREMOTEIP,
    SSLREMOTEPORT: process.env.TCPREMOTEPORT,
    TCPLOCALIP: undefined,
    TCPLOCALPORT: undefined,
    TCPREMOTEIP: undefined,
    TCPREMOTEPORT: undefined,
  },
  describe: (socket) => {
    const subject = socket.getPeerX509Certificate()?.subject.split('\n').join(',');
    const { servername } = socket as { servername?: unknown };
    return [
      ['SSL_PROTOCOL', socket.getProtocol() ?? ''],
      ['SSL_CIPHER', socket.getCipher().name],
      ['SSL_SERVER_S_DN_CN', 'mail.example.org'],
      ...(typeof servername === 'string' ? ([['SSL_TLS_SNI', servername]] as const) : []),
      ...(subject === undefined ? [] : ([['SSL_CLIENT_S_DN', subject]] as const)),
    ];
  },
  closesControl: false,
  terminates: true,
});
