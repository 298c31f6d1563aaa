import { runProgram } from '../lib/program/run.ts';

const NAME = 'smtpd-starttls-server';

void runProgram({
  name: NAME,
  help: `Usage: ${NAME} [options] [--] host port smtpd...
       ${NAME} [options] [--] - smtpd...
       ${NAME} [options] --to HOST:PORT [--] host port

Listens, and gives STARTTLS to an SMTP server that speaks on stdin and stdout,
one process for each connection. Reads CERTFILE and KEYFILE. With - for host and
port the listening socket is descriptor 0, or comes from systemd.

  listening
      --listen HOST:PORT  listen there too; may come again
  -b, --backlog N         how many connections may wait, in the system and here (128)
  -1, --print-port        print the port on stdout when it listens
      --notify-fd FD      write a newline to this descriptor when it listens
  limits
  -c, --connections N     how many are served at once, others wait (400)
  -C, --per-address N     and from one address (any)
  -t, --timeout SECONDS   how long the dialogue before TLS may stand still (300)
  -T, --relay-timeout SECONDS
                          how long nothing may pass after it (for ever)
  -K MILLISECONDS         how long the handshake may take (30000); 0 for ever
      --error-limit N     how many commands may be refused before MAIL (100)
      --grace SECONDS     how long sessions may go on after SIGTERM (30)
  mail
  -r, --require-tls       no mail without TLS
  -a, --plaintext-auth    allow AUTH without TLS
  -f, --fresh             start a new smtpd, which is told of TLS, when TLS has started
  -l, --local-name NAME   the name of this host for smtpd, TCPLOCALHOST
      --to HOST:PORT      connect to this server in place of running an smtpd
      --send-proxy VERSION
                          tell it who the client is, by PROXY protocol v1 or v2
      --proxy-protocol NETWORKS
                          take connections from these proxies alone, and the client's
                          address from their PROXY header
  TLS
      --implicit-tls      TLS from the first byte on, as on port 465
  -k LEVEL                server names (SNI): 0 KEYFILE and CERTFILE for all (the default),
                          1 KEYFILE:name and CERTFILE:name too, 2 only those
  -Y                      ask for a client certificate, which must be good if there is one
  -y                      insist on a good client certificate
      --alpn PROTOCOL     refuse clients that offer protocols by ALPN, but not this one
      --ticket-keys FILE  the keys of session tickets, for several servers to share
  processes
      --workers N         how many processes serve (1); 0 for one a core
  -u, --uid UID           the user that serves, and that smtpd runs as
  -g, --gid GID           and its group
  -U, --user-from-environment
                          both from UID, GID and GIDLIST
  messages
  -q, --quiet             fatal errors only, the same as -v 0
  -v, --verbosity LEVEL   0 fatal errors, 1 warnings too (the default), 2 sessions too, 3 all
      --metrics HOST:PORT tell what was counted, by HTTP, for Prometheus
      --version           print the version
      --help              print this

SIGTERM ends it in good order. SIGHUP reads the certificates again, as it does by
itself when they change. SIGUSR1 has it say what it has counted.
`,
  options: {
    listen: { type: 'string', multiple: true },
    backlog: { type: 'string', short: 'b' },
    'print-port': { type: 'boolean', short: '1' },
    'notify-fd': { type: 'string' },
    connections: { type: 'string', short: 'c' },
    'per-address': { type: 'string', short: 'C' },
    timeout: { type: 'string', short: 't' },
    'relay-timeout': { type: 'string', short: 'T' },
    K: { type: 'string', short: 'K' },
    'error-limit': { type: 'string' },
    grace: { type: 'string' },
    'require-tls': { type: 'boolean', short: 'r' },
    'plaintext-auth': { type: 'boolean', short: 'a' },
    fresh: { type: 'boolean', short: 'f' },
    'local-name': { type: 'string', short: 'l' },
    to: { type: 'string' },
    'send-proxy': { type: 'string' },
    'proxy-protocol': { type: 'string' },
    'implicit-tls': { type: 'boolean' },
    k: { type: 'string', short: 'k' },
    Y: { type: 'boolean', short: 'Y' },
    y: { type: 'boolean', short: 'y' },
    alpn: { type: 'string' },
    'ticket-keys': { type: 'string' },
    workers: { type: 'string' },
    uid: { type: 'string', short: 'u' },
    gid: { type: 'string', short: 'g' },
    'user-from-environment': { type: 'boolean', short: 'U' },
    quiet: { type: 'boolean', short: 'q' },
    verbosity: { type: 'string', short: 'v' },
    metrics: { type: 'string' },
  },
  run: async (values, words) => {
    // Here, so that --help and wrong usage do not wait for what only a server needs.
    const { readServerOptions } = await import('../lib/server/options.ts');
    const { runServer } = await import('../lib/server/server.ts');
    return runServer(readServerOptions(NAME, values, words, process.env), process.env);
  },
});
