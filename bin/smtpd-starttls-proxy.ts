import { runProgram } from '../lib/program/run.ts';

const NAME = 'smtpd-starttls-proxy';

void runProgram({
  name: NAME,
  help: `Usage: ${NAME} [options] [--] smtpd...
       ${NAME} [options] --to HOST:PORT

Gives STARTTLS to an SMTP server that speaks on stdin and stdout, for the one
connection on descriptors 0 and 1. Runs under tcpserver, inetd, xinetd, systemd.
Reads CERTFILE and KEYFILE.

  -r, --require-tls       no mail without TLS
  -a, --plaintext-auth    allow AUTH without TLS
  -f, --fresh             start a new smtpd, which is told of TLS, when TLS has started
  -l, --local-name NAME   the name of this host for smtpd, TCPLOCALHOST
  -t, --timeout SECONDS   how long the dialogue before TLS may stand still (300)
  -T, --relay-timeout SECONDS
                          how long nothing may pass after it (for ever)
      --error-limit N     how many commands may be refused before MAIL (100)
  -K MILLISECONDS         how long the handshake may take (30000); 0 for ever
      --implicit-tls      TLS from the first byte on, as on port 465
  -k LEVEL                server names (SNI): 0 KEYFILE and CERTFILE for all (the default),
                          1 KEYFILE:name and CERTFILE:name too, 2 only those
  -Y                      ask for a client certificate, which must be good if there is one
  -y                      insist on a good client certificate
      --alpn PROTOCOL     refuse clients that offer protocols by ALPN, but not this one
      --ticket-keys FILE  the keys of session tickets, for several servers to share
      --to HOST:PORT      connect to this server in place of running an smtpd
      --send-proxy VERSION
                          tell it who the client is, by PROXY protocol v1 or v2
      --proxy-protocol NETWORKS
                          take connections from these proxies alone, and the client's
                          address from their PROXY header
  -u, --uid UID           the user to become, when the keys are read
  -g, --gid GID           and its group
  -U, --user-from-environment
                          both from UID, GID and GIDLIST
  -q, --quiet             fatal errors only, the same as -v 0
  -v, --verbosity LEVEL   0 fatal errors, 1 warnings too (the default), 2 TLS sessions too
      --version           print the version
      --help              print this
`,
  options: {
    'require-tls': { type: 'boolean', short: 'r' },
    'plaintext-auth': { type: 'boolean', short: 'a' },
    fresh: { type: 'boolean', short: 'f' },
    'local-name': { type: 'string', short: 'l' },
    timeout: { type: 'string', short: 't' },
    'relay-timeout': { type: 'string', short: 'T' },
    'error-limit': { type: 'string' },
    K: { type: 'string', short: 'K' },
    'implicit-tls': { type: 'boolean' },
    k: { type: 'string', short: 'k' },
    Y: { type: 'boolean', short: 'Y' },
    y: { type: 'boolean', short: 'y' },
    alpn: { type: 'string' },
    'ticket-keys': { type: 'string' },
    to: { type: 'string' },
    'send-proxy': { type: 'string' },
    'proxy-protocol': { type: 'string' },
    uid: { type: 'string', short: 'u' },
    gid: { type: 'string', short: 'g' },
    'user-from-environment': { type: 'boolean', short: 'U' },
    quiet: { type: 'boolean', short: 'q' },
    verbosity: { type: 'string', short: 'v' },
  },
  run: async (values, words) => {
    // Here, so that --help and wrong usage do not wait for what only a session needs.
    const { readProxyOptions } = await import('../lib/server/options.ts');
    const { runProxy } = await import('../lib/proxy/proxy.ts');
    return runProxy(readProxyOptions(NAME, values, words, process.env), process.env);
  },
});
