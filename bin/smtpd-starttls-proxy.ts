// First: see there.
import '../lib/program/sigusr1.ts';
import { proxyProtocolOptions } from '../lib/net/options.ts';
import { identityOptions } from '../lib/program/identity.ts';
import { formatHelp, optionTable } from '../lib/program/options.ts';
import { runProgram } from '../lib/program/run.ts';
import { quietOptions } from '../lib/program/verbosity.ts';
import { sessionOptions } from '../lib/session/options.ts';
import { messageOptions } from '../lib/smtpd/message-options.ts';
import { smtpdOptions } from '../lib/smtpd/options.ts';
import { smtpTlsOptions, tlsOptions } from '../lib/tls/options.ts';

const NAME = 'smtpd-starttls-proxy';

const ROWS = [
  sessionOptions,
  smtpdOptions,
  messageOptions,
  proxyProtocolOptions,
  tlsOptions,
  smtpTlsOptions,
  identityOptions,
  quietOptions,
].flatMap(({ rows }) => rows);

void runProgram({
  name: NAME,
  help: () =>
    formatHelp(
      `Usage: ${NAME} [options] [--] smtpd...
       ${NAME} [options] --to ADDRESS

Adds STARTTLS to an SMTP server that runs on stdin and stdout, for the one
connection on descriptors 0 and 1. Runs under tcpserver, inetd, xinetd, systemd.
Reads CERTFILE and KEYFILE.`,
      [{ rows: ROWS }],
    ),
  options: optionTable(ROWS),
  run: async (values, command) => {
    const options = {
      program: NAME,
      verbosity: quietOptions.read(values),
      ...(await smtpdOptions.read(values, NAME, command)),
      ...(await proxyProtocolOptions.read(values)),
      ...tlsOptions.read(values),
      ...smtpTlsOptions.read(values),
      terms: sessionOptions.read(values),
      envelope: messageOptions.read(values),
      identity: identityOptions.read(values, process.env),
    };
    // Here, so that --help and usage errors do not load what only a session needs.
    const { runProxy } = await import('../lib/proxy/proxy.ts');
    return runProxy(options, process.env);
  },
});
